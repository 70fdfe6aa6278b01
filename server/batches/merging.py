"""Merges short texts of several lines into one request of embeddings, and splits its answer.

An engine embeds many texts of one request at far less cost than one text of many requests. Only local models are
asked so: their workers tell the tokens of each text, so every line is answered as if it had been asked alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from backends.wire.embeddings import EmbeddingRequest
from catalog.types import Json

FIRST, MOST, FEW = 32, 128, 8
"""Lines of the first request, of any, and beside interactive requests, so that another caller's text does not wait
long."""
LASTS = 1.0
"""Seconds that a request is to take: a fast engine gets more lines of one, a slow one is soon free for others."""
WEIGHT = 0.3
"""Weight of the newest request in the mean time of a line."""
LONGEST = 4000
"""Characters of a text that is merged: long ones cost more than their request."""
COUNTED = "token_counts"
"""The member of a request by which our own workers tell the ``tokens`` of each text."""


class EmbeddingMerger:
    """Merges requests of one text that are equal otherwise."""

    def __init__(self) -> None:
        self._mean = LASTS / FIRST

    @property
    def size(self) -> int:
        """The lines of the next request."""
        return max(FEW, min(MOST, round(LASTS / self._mean)))

    def took(self, seconds: float, lines: int) -> None:
        """Note the time of a request."""
        self._mean += WEIGHT * (seconds / lines - self._mean)

    def key(self, body: EmbeddingRequest) -> bytes | None:
        """The parts that requests must share to be merged; ``None`` for one that is asked alone."""
        if not isinstance(body.input, str) or len(body.input) > LONGEST:
            return None
        return orjson.dumps(body.to_wire(input=None), option=orjson.OPT_SORT_KEYS)

    def merge(self, bodies: Sequence[EmbeddingRequest]) -> EmbeddingRequest:
        """One request for all of them."""
        sent = bodies[0].to_wire(input=[body.input for body in bodies])
        return EmbeddingRequest.model_validate({**sent, COUNTED: True})

    def split(self, answer: Json, count: int) -> list[Json] | None:
        """The answer of each of ``count`` requests; ``None`` if the tokens of each text are not told."""
        rows: list[Any] = answer["data"]
        if len(rows) != count or not all(isinstance(row.get("tokens"), int) for row in rows):
            return None
        cut = set(answer.get("truncated") or ())
        answers = []
        for index, row in enumerate(rows):
            tokens = row["tokens"]
            alone = {name: value for name, value in row.items() if name != "tokens"} | {"index": 0}
            told = {**answer, "data": [alone], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
            told.pop("truncated", None)
            answers.append({**told, "truncated": [0]} if index in cut else told)
        return answers
