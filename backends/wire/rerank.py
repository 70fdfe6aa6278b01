"""POST /v1/rerank: the request, in the shapes of Cohere (v1, v2) and Jina."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints

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
