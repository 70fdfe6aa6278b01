"""Cohere's requests and answers of embeddings. Source: Cohere's API reference, versions 1 and 2."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, NotRequired

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from typing_extensions import TypedDict

from backends.wire.common import MAX_TEXT, ModelName, WireModel
from backends.wire.embeddings import MAX_INPUTS, EmbeddingRequest
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from server.edge.json_body import as_model

Vectors = NDArray[np.float32]
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
CohereText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]
_KINDS = {"search_query": "query", "search_document": "document"}
"""Cohere's input types for which models have prompts; texts to classify or to cluster stand as they are."""


class CoherePicture(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)
    url: CohereText


class CoherePart(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)
    type: Literal["text", "image_url"]
    text: CohereText | None = None
    image_url: CoherePicture | None = None


class CohereInput(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)
    content: Annotated[list[CoherePart], Field(min_length=1, max_length=128)]


class CohereEmbedRequest(WireModel):
    """Texts and pictures to embed, in one or several forms. ``inputs`` are in parts; a picture is a data URL."""

    model: ModelName = "auto"
    texts: Annotated[list[CohereText], Field(max_length=MAX_INPUTS)] | None = None
    inputs: Annotated[list[CohereInput], Field(max_length=MAX_INPUTS)] | None = None
    images: Annotated[list[CohereText], Field(max_length=MAX_INPUTS)] | None = None
    input_type: Literal["search_document", "search_query", "classification", "clustering", "image"] | None = None
    embedding_types: Annotated[list[EmbeddingType], Field(min_length=1, max_length=6)] | None = None
    output_dimension: Annotated[int, Field(ge=1, le=65536)] | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    def pictured(self) -> bool:
        """Whether there are pictures among what is to be embedded."""
        return bool(self.images) or any(
            part.type == "image_url" for item in self.inputs or () for part in item.content
        )

    def given(self) -> list[str]:
        """The texts. Raises InvalidRequest without any, or for several kinds of input."""
        if sum(map(bool, (self.texts, self.inputs, self.images))) > 1:
            raise InvalidRequest("Give one of 'texts', 'images' and 'inputs'.", param="inputs")
        if self.images:
            return ["" for _ in self.images]
        texts = self.texts or [
            "\n".join(part.text for part in item.content if part.text) for item in self.inputs or ()
        ]
        if not texts or (not all(texts) and not self.pictured()):
            raise InvalidRequest("Give at least one text in 'texts', and none that is empty.", param="texts")
        return texts

    def embedding(self) -> EmbeddingRequest | MixedEmbeddingRequest:
        """The request for vectors; texts that are too long are cut at their end, unless ``truncate`` is NONE.

        Raises UnsupportedParameter for a cut at the beginning or at a number of tokens.
        """
        if self.truncate == "START":
            raise UnsupportedParameter("Texts are cut at their end; send 'END' or 'NONE'.", param="truncate")
        if self.max_tokens is not None:
            raise UnsupportedParameter("Texts are cut at the model's own limit alone.", param="max_tokens")
        fields: Json = {**(self.model_extra or {}), "model": self.model, "truncate": self.truncate != "NONE"}
        if self.output_dimension is not None:
            fields["dimensions"] = self.output_dimension
        if self.input_type in _KINDS:
            fields["input_type"] = _KINDS[self.input_type]
        texts = self.given()
        if not self.pictured():
            return as_model(EmbeddingRequest, {**fields, "input": texts})
        del fields["truncate"]
        pictures = [{"image_url": picture} for picture in self.images or ()]
        parts = [
            {"content": [part.model_dump(exclude_none=True) for part in item.content]}
            for item in self.inputs or ()
        ]
        return as_model(MixedEmbeddingRequest, {**fields, "input": [*pictures, *parts]})


class CohereEmbeddings(TypedDict):
    """Vectors by form; ``binary`` has the sign of eight numbers in each of its own."""

    float: NotRequired[list[list[float]]]
    int8: NotRequired[list[list[int]]]
    uint8: NotRequired[list[list[int]]]
    binary: NotRequired[list[list[int]]]
    ubinary: NotRequired[list[list[int]]]
    base64: NotRequired[list[str]]


class CohereEmbedAnswer(TypedDict):
    """``embeddings`` is a list of vectors in version 1 where no types are asked for."""

    id: str
    response_type: Literal["embeddings_by_type", "embeddings_floats"]
    embeddings: CohereEmbeddings | list[list[float]]
    texts: list[str]
    model: NotRequired[str]
    meta: dict[str, Any]


def _int8(vectors: Vectors) -> NDArray[Any]:
    """Numbers of -127 to 127, each vector scaled by its largest, which leaves cosines as they are."""
    largest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), np.float32(1e-12))
    scaled: NDArray[Any] = np.rint(vectors * (127 / largest)).astype(np.int16)
    return scaled


def _packed(vectors: Vectors) -> NDArray[Any]:
    return np.packbits(vectors > 0, axis=1).astype(np.int16)


def _base64(vectors: Vectors) -> list[str]:
    return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]


_FORMS: Mapping[str, Callable[[Vectors], Any]] = MappingProxyType(
    {
        "float": lambda vectors: vectors,
        "int8": _int8,
        "uint8": lambda vectors: _int8(vectors) + 128,
        "binary": lambda vectors: _packed(vectors) - 128,
        "ubinary": _packed,
        "base64": _base64,
    }
)


def embedded(answer: Json, request: CohereEmbedRequest, trace: str, *, version: Literal[1, 2]) -> Json:
    """The answer in Cohere's shape."""
    vectors = np.asarray([row["embedding"] for row in answer["data"]], dtype=np.float32)
    by_type = version == 2 or request.embedding_types is not None
    forms = {name: _FORMS[name](vectors) for name in dict.fromkeys(request.embedding_types or ("float",))}
    tokens = (answer.get("usage") or {}).get("total_tokens", 0)
    return {
        "id": trace,
        "response_type": "embeddings_by_type" if by_type else "embeddings_floats",
        "embeddings": forms if by_type else vectors,
        "texts": request.given(),
        "model": answer["model"],
        "meta": {"api_version": {"version": str(version)}, "billed_units": {"input_tokens": tokens}},
    }
