"""Translates embeddings to and from Gemini's ``batchEmbedContents``. Source: Google's Gemini API reference."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from backends.base import Upstream
from backends.google.messages import media_part
from backends.parameters import refuse_forbidden
from backends.translation import Dropped
from backends.wire.chat import ContentPart
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.media import image_url
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from catalog.errors import CapabilityMismatch, UpstreamProtocolError
from catalog.types import Json

MAX_BATCH = 100
"""The most texts of one call."""

CHARACTERS_PER_TOKEN = 4
"""Google's estimate, for answers without a count of tokens."""

_TASKS = {"query": "RETRIEVAL_QUERY", "document": "RETRIEVAL_DOCUMENT"}


def translate(
    request: EmbeddingRequest | MixedEmbeddingRequest, upstream: Upstream
) -> tuple[list[Json], tuple[str, ...]]:
    """``(bodies of at most MAX_BATCH texts, names of the dropped parameters)``.

    Raises :class:`CapabilityMismatch` for token ids, which Gemini does not take.
    """
    refuse_forbidden(request)
    dropped = Dropped()
    model = model_path(upstream.model)
    common: Json = {"model": model}
    if request.dimensions is not None:
        common["outputDimensionality"] = request.dimensions
    if request.input_type is not None:
        if "embedding-2" in model:  # this generation takes its task in the text itself
            dropped.add("input_type")
        else:
            common["taskType"] = _TASKS[request.input_type]
    dropped.add(
        *(name for name in ("user", "instruction", *(request.model_extra or {})) if getattr(request, name, None))
    )
    requests = [{**common, "content": {"parts": parts}} for parts in _contents(request)]
    bodies = [{"requests": requests[at : at + MAX_BATCH]} for at in range(0, len(requests), MAX_BATCH)]
    return bodies, dropped.as_tuple()


def assemble(request: EmbeddingRequest | MixedEmbeddingRequest, upstream: Upstream, answers: list[Json]) -> Json:
    """OpenAI's list object. Vectors are scaled to length 1, since Gemini does not do so for shortened ones."""
    rows = [row["values"] for answer in answers for row in answer["embeddings"]]
    texts = request.items()
    if len(rows) != len(texts):
        raise UpstreamProtocolError(
            f"The endpoint '{upstream.endpoint}' answered {len(texts)} texts with {len(rows)} vectors."
        )
    with np.errstate(over="ignore"):
        vectors = np.asarray(rows, dtype="<f4")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not vectors.size or not np.isfinite(lengths).all():
        raise UpstreamProtocolError(
            f"The endpoint '{upstream.endpoint}' answered with vectors that are not numbers."
        )
    vectors = vectors / np.where(lengths > 0, lengths, 1)
    as_text = request.encoding_format == "base64"
    return {
        "object": "list",
        "model": upstream.model,
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.tobytes()).decode() if as_text else vector.tolist(),
            }
            for index, vector in enumerate(vectors)
        ],
        "usage": _usage(texts, answers),
    }


def _contents(request: EmbeddingRequest | MixedEmbeddingRequest) -> list[list[Json]]:
    """The parts of each input. Raises CapabilityMismatch for token ids."""
    if isinstance(request, MixedEmbeddingRequest):
        return [[_part(part) for part in parts] for parts in request.contents()]
    if any(not isinstance(text, str) for text in request.items()):
        raise CapabilityMismatch("Gemini embeds texts, not token ids.", param="input")
    return [[{"text": text}] for text in request.items()]


def _part(part: ContentPart) -> Json:
    return {"text": part.text} if part.image_url is None else media_part(image_url(part))


def _usage(texts: list[Any], answers: list[Json]) -> Json:
    metadata = [answer.get("usageMetadata") for answer in answers]
    counts = [one.get("promptTokenCount") if isinstance(one, dict) else None for one in metadata]
    if all(isinstance(count, int) for count in counts):
        total = sum(count for count in counts if isinstance(count, int))
        return {"prompt_tokens": total, "total_tokens": total}
    guess = sum(-(-len(text) // CHARACTERS_PER_TOKEN) for text in texts)
    return {"prompt_tokens": guess, "total_tokens": guess, "estimated": True}


def model_path(model: str) -> str:
    """A model's resource name, ``models/...``; a longer path (Vertex) is taken as it is."""
    return model if "/" in model else f"models/{model}"
