"""Checks plain answers of OpenAI's wire and makes them regular."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import Upstream
from backends.wire.classify import ClassifyRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.rerank import RerankRequest
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from catalog.errors import UnsupportedValue, UpstreamProtocolError
from catalog.types import Json


def _wrong(upstream: Upstream, what: str) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' answered with {what}.")


def embedding_list(document: Json, request: EmbeddingRequest | MixedEmbeddingRequest, upstream: Upstream) -> Json:
    """OpenAI's list, in the order of the inputs and in the caller's encoding.

    Some servers ignore ``encoding_format``. Raises UpstreamProtocolError when a vector is missing,
    and UnsupportedParameter when the server ignored ``dimensions``.
    """
    rows = document.get("data")
    if not isinstance(rows, list) or len(rows) != len(request.items()):
        raise _wrong(upstream, "a number of vectors that differs from the number of inputs")
    ordered: list[Json | None] = [None] * len(rows)
    lengths: set[int] = set()
    for position, row in enumerate(rows):
        if type(row) is not dict:
            raise _wrong(upstream, "vectors that are not objects")
        index = row.get("index", position)
        if type(index) is not int or not 0 <= index < len(rows) or ordered[index] is not None:
            raise _wrong(upstream, "vectors without a valid index")
        vector = encoded(row.get("embedding"), request.encoding_format or "float", upstream)
        if request.dimensions is not None and _length(vector) != request.dimensions:
            raise UnsupportedValue(
                f"The model '{upstream.model}' makes vectors of {_length(vector)} dimensions only.",
                param="dimensions",
            )
        ordered[index] = {**row, "object": "embedding", "index": index, "embedding": vector}
        lengths.add(len(vector))
    if len(lengths) > 1:
        raise _wrong(upstream, "vectors of different lengths")
    return {**document, "object": "list", "data": ordered}


def encoded(vector: Any, form: str, upstream: Upstream) -> list[float] | NDArray[np.float32] | str:
    """A vector as floats, or with ``form`` of "base64" as base64 of little-endian float32.

    Floats that the server sent as base64 stay an array: orjson writes each as the shortest text of that float32.
    """
    if isinstance(vector, str):
        floats = _float32(vector, upstream)
        return vector if form == "base64" else floats
    if not isinstance(vector, list) or not vector or not _NUMBERS.issuperset(map(type, vector)):
        raise _wrong(upstream, "an embedding that is not a list of numbers")
    if form == "float":
        return vector
    with np.errstate(over="ignore"):
        floats = np.asarray(vector, dtype="<f4")
    if not np.isfinite(floats).all():
        raise _wrong(upstream, "an embedding beyond the range of float32")
    return base64.b64encode(floats.tobytes()).decode()


_NUMBERS = frozenset({int, float})


def _float32(packed: str, upstream: Upstream) -> NDArray[np.float32]:
    try:
        floats = np.frombuffer(base64.b64decode(packed, validate=True), dtype="<f4")
        if not floats.size or not np.isfinite(floats).all():
            raise ValueError
        return floats
    except ValueError:
        raise _wrong(upstream, "an embedding that is not base64 of float32") from None


def _length(vector: list[float] | NDArray[np.float32] | str) -> int:
    return len(base64.b64decode(vector)) // 4 if isinstance(vector, str) else len(vector)


def rerank_results(document: Json, request: RerankRequest, upstream: Upstream) -> Json:
    """The ``top_n`` results by descending score, scores in [0, 1].

    Some servers (llama.cpp) send logits: if a score is outside [0, 1], all scores of the answer are put through
    the logistic function.
    """
    rows = document.get("results", document.get("data"))
    if not isinstance(rows, list):
        raise _wrong(upstream, "no results")
    try:
        pairs = [(int(row["index"]), float(row.get("relevance_score", row.get("score")))) for row in rows]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise _wrong(upstream, "results without index and score") from None
    if any(not 0 <= index < len(request.documents) or not math.isfinite(score) for index, score in pairs):
        raise _wrong(upstream, "a result for a document that was not sent")
    if len({index for index, _ in pairs}) < len(pairs):
        raise _wrong(upstream, "two results for one document")
    if any(not 0.0 <= score <= 1.0 for _, score in pairs):
        pairs = [(index, _logistic(score)) for index, score in pairs]
    pairs.sort(key=lambda pair: (-pair[1], pair[0]))
    results = [{"index": index, "relevance_score": score} for index, score in pairs[: request.top_n]]
    answer: Json = {"results": results}
    for name in ("id", "model", "usage", "meta", "scoring", "truncated"):
        if document.get(name) is not None:
            answer[name] = document[name]
    return answer


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def classifications(document: Json, request: ClassifyRequest, upstream: Upstream) -> Json:
    """The probabilities of the labels for each text: of the request's in their order, or of the server's own.

    Source: Jina's API reference.
    """
    rows = document.get("data")
    if not isinstance(rows, list):
        raise _wrong(upstream, "no classifications")
    scores: dict[int, list[float]] = {}
    labels = request.labels
    try:
        if labels is None:
            labels = [str(entry["label"]) for entry in rows[0]["predictions"]]
        for position, row in enumerate(rows):
            by_label = {entry["label"]: float(entry["score"]) for entry in row["predictions"]}
            scores[int(row.get("index", position))] = [by_label[label] for label in labels]
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
        raise _wrong(upstream, "a classification without a score for each label") from None
    if sorted(scores) != list(range(len(request.texts()))):
        raise _wrong(upstream, "a number of classifications that differs from the number of texts")
    if not all(0.0 <= score <= 1.0 for row in scores.values() for score in row):
        raise _wrong(upstream, "a score outside [0, 1]")
    answer: Json = {
        "data": [{"index": index, "scores": scores[index]} for index in sorted(scores)],
        "labels": labels,
        "scoring": document.get("scoring", "provider"),
    }
    for name in ("usage", "truncated"):
        if document.get(name) is not None:
            answer[name] = document[name]
    return answer


def transcript_events(document: Any, upstream: Upstream) -> Iterator[Json]:
    """The events of a stream that says the same as a plain transcript."""
    if not isinstance(document, dict) or not isinstance(document.get("text"), str):
        raise _wrong(upstream, "no transcript")
    if document["text"]:
        yield {"type": "transcript.text.delta", "delta": document["text"]}
    rest = {name: document[name] for name in document if name not in ("task", "type")}
    yield {"type": "transcript.text.done", **rest}


def image_events(document: Any, upstream: Upstream, made: str = "image_generation") -> Iterator[Json]:
    """The events of a stream that says the same as a plain list of images; the usage is on the last.

    ``made`` is the beginning of their type.
    """
    images = document.get("data") if isinstance(document, dict) else None
    if not isinstance(images, list) or not images or any(type(image) is not dict for image in images):
        raise _wrong(upstream, "no image")
    shared = {
        name: document[name] for name in ("size", "quality", "background", "output_format") if name in document
    }
    for position, image in enumerate(images):
        event = {
            "type": f"{made}.completed",
            "created_at": document.get("created"),
            **shared,
            **image,
            "index": position,
        }
        if position == len(images) - 1 and document.get("usage"):
            event["usage"] = document["usage"]
        yield event
