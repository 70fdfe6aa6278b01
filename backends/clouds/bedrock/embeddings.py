"""Translates embeddings to and from the models of Bedrock, each of which has a body of its own.

A text that is too long is refused, not cut. Source: AWS's pages on Titan, Nova and Cohere Embed.
"""

from __future__ import annotations

from typing import Any

from backends.base import Upstream
from backends.parameters import refuse_forbidden
from backends.translation import Dropped
from backends.wire.embeddings import EmbeddingRequest
from catalog.errors import CapabilityMismatch, UnsupportedParameter
from catalog.types import Json

COHERE_BATCH = 96
"""The most texts of one call; Titan and Nova take one."""


def embeds(model: str) -> bool:
    """Whether a model is one of those that can be asked here."""
    name = model.lower()
    return "cohere.embed" in name or "titan-embed" in name or ("nova" in name and "embeddings" in name)


def translate(request: EmbeddingRequest, upstream: Upstream) -> tuple[list[Json], tuple[str, ...]]:
    """``(bodies, names of the dropped parameters)``.

    Raises CapabilityMismatch for token ids and for a model that does not embed, UnsupportedParameter for
    dimensions that the model cannot give.
    """
    refuse_forbidden(request)
    texts: list[str] = []
    for item in request.items():
        if not isinstance(item, str):
            raise CapabilityMismatch("Bedrock embeds texts, not token ids.", param="input")
        texts.append(item)
    name = upstream.model.lower()
    dropped = Dropped()
    named = ("user", "instruction", *(request.model_extra or {}))
    dropped.add(*(extra for extra in named if getattr(request, extra, None)))
    if "cohere.embed" in name:
        bodies = [
            _cohere(texts[at : at + COHERE_BATCH], request, name) for at in range(0, len(texts), COHERE_BATCH)
        ]
    elif "titan-embed" in name:
        if request.input_type is not None:
            dropped.add("input_type")
        bodies = [_titan(text, request, name) for text in texts]
    elif embeds(name):
        bodies = [_nova(text, request) for text in texts]
    else:
        raise CapabilityMismatch(f"'{upstream.model}' is not a model that embeds texts on Bedrock.", param="model")
    return bodies, dropped.as_tuple()


def regular(answer: Json, tokens: str | None) -> Json:
    """An answer in the shape of Gemini's batch; ``tokens`` is Bedrock's header with the count of the prompt."""
    found: Any = answer.get("embeddings")
    if found is None:
        found = [answer["embedding"]]
    elif isinstance(found, dict):
        found = found["float"]
    rows = [row["embedding"] if isinstance(row, dict) else row for row in found]
    count = answer.get("inputTextTokenCount")
    if type(count) is not int:
        count = int(tokens) if tokens is not None and tokens.isdecimal() else None
    usage = {} if count is None else {"promptTokenCount": count}
    return {"embeddings": [{"values": row} for row in rows], "usageMetadata": usage}


def _cohere(texts: list[str], request: EmbeddingRequest, name: str) -> Json:
    purpose = "search_query" if request.input_type == "query" else "search_document"  # it must be given
    body: Json = {"texts": texts, "input_type": purpose, "truncate": "NONE", "embedding_types": ["float"]}
    if request.dimensions is not None:
        if "v3" in name:
            raise _fixed(request)
        body["output_dimension"] = request.dimensions
    return body


def _titan(text: str, request: EmbeddingRequest, name: str) -> Json:
    if "text-v2" in name:
        dimensions = {} if request.dimensions is None else {"dimensions": request.dimensions}
        return {"inputText": text, "normalize": True, **dimensions}
    if request.dimensions is not None:
        raise _fixed(request)
    return {"inputText": text}


def _nova(text: str, request: EmbeddingRequest) -> Json:
    purpose = "TEXT_RETRIEVAL" if request.input_type == "query" else "GENERIC_INDEX"
    wanted: Json = {"embeddingPurpose": purpose, "text": {"truncationMode": "NONE", "value": text}}
    if request.dimensions is not None:
        wanted["embeddingDimension"] = request.dimensions
    return {"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": wanted}


def _fixed(request: EmbeddingRequest) -> UnsupportedParameter:
    return UnsupportedParameter(
        f"This model's embeddings have one length, so dimensions cannot be {request.dimensions}.",
        param="dimensions",
    )
