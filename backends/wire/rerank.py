"""POST /v1/rerank: the request, in the shapes of Cohere (v1, v2) and Jina."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, StringConstraints

from backends.wire.common import MAX_TEXT, ModelName, Text, WireModel

MAX_DOCUMENTS = 10_000
NonEmpty = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]


class RerankRequest(WireModel):
    """Documents to order by relevance to ``query``. A document is a text or an object with ``text``."""

    model: ModelName = "auto"
    query: NonEmpty
    documents: Annotated[list[NonEmpty | dict[str, Any]], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    instruction: Text | None = None
    top_n: Annotated[int, Field(ge=1, le=MAX_DOCUMENTS)] | None = None
    return_documents: bool | None = None
    max_chunks_per_doc: Annotated[int, Field(ge=1, le=10_000)] | None = None
    max_tokens_per_doc: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class PairedRerank(RerankRequest):
    """Pairs of a query and a document to score, as one rerank for each different query.

    ``query`` and ``documents`` are those of all pairs, for estimates.
    """

    _pairs: tuple[tuple[str, str], ...] = PrivateAttr(default=())

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]], **fields: Any) -> PairedRerank:
        """The request for at least one pair; ``fields`` are further ones of each rerank."""
        longest = max((query for query, _ in pairs), key=len)
        made = cls.model_validate({**fields, "query": longest, "documents": [text for _, text in pairs]})
        made._pairs = tuple(pairs)
        return made

    @property
    def queries(self) -> int:
        """The number of reranks."""
        return len({query for query, _ in self._pairs})

    def reranks(self) -> list[tuple[RerankRequest, list[int]]]:
        """One rerank for each different query, with the positions of its documents among the pairs."""
        positions: dict[str, list[int]] = {}
        for position, (query, _) in enumerate(self._pairs):
            positions.setdefault(query, []).append(position)
        fields = self.model_dump(exclude_unset=True, exclude={"query", "documents"})
        return [
            (
                RerankRequest.model_validate(
                    {**fields, "query": query, "documents": [self._pairs[place][1] for place in places]}
                ),
                places,
            )
            for query, places in positions.items()
        ]
