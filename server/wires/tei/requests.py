"""Requests and answers of Text Embeddings Inference. Source: its OpenAPI document, version 1.8."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from backends.wire.classify import MAX_INPUTS as MAX_CLASSIFIED
from backends.wire.classify import ClassifyRequest
from backends.wire.common import MAX_TEXT, Identifier, ModelName, Text, TokenId, WireModel
from backends.wire.embeddings import MAX_INPUTS, EmbeddingRequest
from backends.wire.rerank import MAX_DOCUMENTS, RerankRequest
from backends.wire.tokens import MAX_INPUTS as MAX_SPLIT
from backends.wire.tokens import DetokenizeTexts, TokenizeTexts
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from server.edge.json_body import as_model

GivenText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]
_KINDS = {"query": "query", "document": "document", "passage": "document"}


class TeiRequest(WireModel):
    """Fields of every request. ``model`` is not TEI's, which serves one model; clients may send it."""

    model: ModelName = "auto"
    truncate: bool | None = None
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None

    def common(self) -> Json:
        """The fields of the job's body. Raises UnsupportedParameter for a cut at the left."""
        if self.truncate and (self.truncation_direction or "right").lower() == "left":
            raise UnsupportedParameter(
                "Texts are cut at their end; send truncation_direction 'Right', or cut them yourself.",
                param="truncation_direction",
            )
        cut = {} if self.truncate is None else {"truncate": self.truncate}
        return {**(self.model_extra or {}), "model": self.model, **cut}


class TeiEmbedRequest(TeiRequest):
    """Texts to embed. ``prompt_name`` is query, document or passage."""

    inputs: GivenText | Annotated[list[GivenText], Field(min_length=1, max_length=MAX_INPUTS)]
    normalize: bool | None = None
    prompt_name: Identifier | None = None
    dimensions: Annotated[int, Field(ge=1, le=65536)] | None = None

    def embedding(self) -> EmbeddingRequest:
        """The request for vectors. Raises UnsupportedParameter for vectors that are not of length 1."""
        if self.normalize is False:
            raise UnsupportedParameter("Vectors have length 1 here; leave 'normalize' out.", param="normalize")
        texts = [self.inputs] if isinstance(self.inputs, str) else self.inputs
        more: Json = {} if self.dimensions is None else {"dimensions": self.dimensions}
        return embedding_of(texts, self.common(), self.prompt_name, **more)


def embedding_of(texts: list[str], fields: Json, prompt_name: str | None, **more: Any) -> EmbeddingRequest:
    """The request for the vectors of texts. Raises UnsupportedParameter for an unknown name of a prompt."""
    if prompt_name is not None:
        if prompt_name not in _KINDS:
            raise UnsupportedParameter(
                f"There is no prompt of this name; there are {', '.join(_KINDS)}.", param="prompt_name"
            )
        more["input_type"] = _KINDS[prompt_name]
    return as_model(EmbeddingRequest, {**fields, **more, "input": texts})


class ComparedTexts(WireModel):
    source_sentence: GivenText
    sentences: Annotated[list[GivenText], Field(min_length=1, max_length=MAX_INPUTS - 1)]


class SimilarityParameters(TeiRequest):
    prompt_name: Identifier | None = None


class TeiSimilarityRequest(WireModel):
    """One text to compare with others."""

    model: ModelName = "auto"
    inputs: ComparedTexts
    parameters: SimilarityParameters | None = None

    def embedding(self) -> EmbeddingRequest:
        """The request for the vectors of the text and of the others."""
        parameters = self.parameters or SimilarityParameters()
        fields = {**(self.model_extra or {}), **parameters.common(), "model": self.model}
        texts = [self.inputs.source_sentence, *self.inputs.sentences]
        return embedding_of(texts, fields, parameters.prompt_name)


class TeiRerankRequest(TeiRequest):
    """Texts to order by relevance to ``query``."""

    query: GivenText
    texts: Annotated[list[GivenText], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    raw_scores: bool | None = None
    return_text: bool | None = None

    def rerank(self) -> RerankRequest:
        """The request for the scores."""
        return as_model(RerankRequest, {**self.common(), "query": self.query, "documents": self.texts})


class TeiPredictRequest(TeiRequest):
    """Texts to classify: one, or a batch of lists of one text each."""

    inputs: (
        GivenText
        | Annotated[list[GivenText], Field(min_length=1, max_length=2)]
        | Annotated[list[list[GivenText]], Field(min_length=1, max_length=MAX_CLASSIFIED)]
    )
    raw_scores: bool | None = None

    @property
    def is_batch(self) -> bool:
        return not isinstance(self.inputs, str) and not isinstance(self.inputs[0], str)

    def classification(self) -> ClassifyRequest:
        """The request for the labels' scores. Raises InvalidRequest for pairs, UnsupportedParameter for logits."""
        if self.raw_scores:
            raise UnsupportedParameter(
                "The scores of labels are probabilities here; leave 'raw_scores' out.", param="raw_scores"
            )
        given = [self.inputs] if isinstance(self.inputs, str) else self.inputs
        rows = [[row] if isinstance(row, str) else row for row in given] if self.is_batch else [given]
        if any(len(row) != 1 for row in rows):
            raise InvalidRequest(
                "A text stands alone in its list; score a pair of texts with POST /rerank.", param="inputs"
            )
        return as_model(ClassifyRequest, {**self.common(), "input": [row[0] for row in rows]})


class TeiTokenizeRequest(WireModel):
    """Texts to split into tokens."""

    model: ModelName = "auto"
    inputs: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_SPLIT)]
    add_special_tokens: bool = True
    prompt_name: Identifier | None = None

    def texts(self) -> TokenizeTexts:
        """The texts to split. Raises UnsupportedParameter for a prompt before them."""
        if self.prompt_name is not None:
            raise UnsupportedParameter(
                "Texts are split as they are; leave 'prompt_name' out.",
                param="prompt_name",
            )
        given = [self.inputs] if isinstance(self.inputs, str) else self.inputs
        fields = {**(self.model_extra or {}), "model": self.model}
        return as_model(TokenizeTexts, {**fields, "texts": given, "add_special": self.add_special_tokens})


class TeiDecodeRequest(WireModel):
    """Token ids of one text, or of several."""

    model: ModelName = "auto"
    ids: (
        Annotated[list[TokenId], Field(min_length=1, max_length=100_000)]
        | Annotated[
            list[Annotated[list[TokenId], Field(max_length=100_000)]], Field(min_length=1, max_length=MAX_SPLIT)
        ]
    )
    skip_special_tokens: bool = True

    def lists(self) -> DetokenizeTexts:
        """The tokens to join."""
        given = self.ids if isinstance(self.ids[0], list) else [self.ids]
        fields = {**(self.model_extra or {}), "model": self.model}
        return as_model(DetokenizeTexts, {**fields, "lists": given, "skip": self.skip_special_tokens})


class TeiToken(TypedDict):
    """``start`` and ``stop`` are positions of characters in the text, where they are known."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TeiRank(TypedDict):
    """``index`` is the text's position in the request."""

    index: int
    score: float
    text: NotRequired[str]


class TeiPrediction(TypedDict):
    score: float
    label: str


class TeiInfo(TypedDict):
    """The model that a request without a name gets."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int | None
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None
