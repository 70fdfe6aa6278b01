"""Answers of Text Embeddings Inference, from those of the jobs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.errors import UnsupportedParameter
from catalog.types import Json
from server.wires.tei.requests import (
    TeiPrediction,
    TeiRank,
    TeiRerankRequest,
    TeiToken,
    TeiTokenizeRequest,
)

_LEAST = 1e-12
"""Bounds the logit of a score of 0 or 1."""


def vectors(answer: Json) -> NDArray[np.float32]:
    """The vectors of a list of embeddings, [texts, dimensions], of length 1."""
    rows = np.asarray([row["embedding"] for row in answer["data"]], dtype=np.float32)
    unit: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(_LEAST))
    return unit


def similarities(answer: Json) -> list[float]:
    """The cosine of the first vector with each of the others."""
    found = vectors(answer).astype(np.float64)
    return [float(cosine) for cosine in found[1:] @ found[0]]


def ranks(answer: Json, request: TeiRerankRequest) -> list[TeiRank]:
    """All texts, best first.

    A raw score is the logit of a cross-encoder's score, and the cosine behind a similarity. Raises
    UnsupportedParameter for raw scores where the model's server does not say what its scores are.
    """
    ordered = sorted(answer["results"], key=lambda one: (-one["relevance_score"], one["index"]))
    found: list[TeiRank] = []
    for one in ordered:
        score = one["relevance_score"]
        rank: TeiRank = {"index": one["index"], "score": _raw(score, answer) if request.raw_scores else score}
        if request.return_text:
            rank["text"] = request.texts[one["index"]]
        found.append(rank)
    return found


def _raw(score: float, answer: Json) -> float:
    if answer.get("scoring") == "similarity":
        return 2 * score - 1
    if answer.get("scoring") == "cross-encoder":
        bounded = min(max(score, _LEAST), 1 - _LEAST)
        return math.log(bounded / (1 - bounded))
    raise UnsupportedParameter("Its server tells no raw scores; leave 'raw_scores' out.", param="raw_scores")


def tokens(answer: Json, request: TeiTokenizeRequest) -> list[list[TeiToken]]:
    """The tokens of each text, with their places in it."""
    texts, around = request.texts().texts, frozenset(answer["around"])
    return [list(_placed(text, pieces, around)) for text, pieces in zip(texts, answer["texts"], strict=True)]


def _placed(text: str, pieces: list[Json], around: frozenset[int]) -> Iterator[TeiToken]:
    """A piece is a part of the text as it stands there, or bytes of a character, whose place is not told."""
    position = 0
    for piece in pieces:
        told = (
            piece["piece"] if isinstance(piece["piece"], str) else bytes(piece["piece"]).decode(errors="replace")
        )
        start = -1 if piece["id"] in around or not told else text.find(told, position)
        found = start >= 0
        position = start + len(told) if found else position
        yield {
            "id": piece["id"],
            "text": told,
            "special": piece["id"] in around,
            "start": start if found else None,
            "stop": position if found else None,
        }


def predictions(answer: Json, *, batch: bool) -> Any:
    """The labels of each text by descending score; of a single text, its labels alone."""
    rows: list[list[TeiPrediction]] = []
    for row in answer["data"]:
        told: list[TeiPrediction] = [
            {"score": score, "label": label} for label, score in zip(answer["labels"], row["scores"], strict=True)
        ]
        rows.append(sorted(told, key=lambda one: -one["score"]))
    return rows if batch else rows[0]
