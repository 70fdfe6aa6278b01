"""Places of an answer in the pixels of the request's own pictures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from backends.base import Upstream
from backends.grounding.families import Family, family_of
from backends.grounding.pictures import ShownPictures, limits_of, resized, sent_size, shown_in
from backends.grounding.spans import LONGEST, PlaceSpan, spans_of
from backends.pictures.sizes import PixelSize, fetched, size_of
from backends.wire.chat import ChatRequest
from catalog.types import Json

_SHORT = 10_000
"""Characters of a text that are read in a millisecond or two."""


async def grounded(chunks: AsyncIterator[Json], upstream: Upstream, request: ChatRequest) -> AsyncGenerator[Json]:
    """The chunks of a chat with pictures; the end of a choice has ``grounding``, the places that its text names.

    A model whose family is not known, and an answer without places, leave the chunks as they are.
    """
    family = family_of(upstream.model, upstream.family)
    sizes: dict[str, PixelSize] = {}
    fetched.set(sizes)
    texts: dict[int, list[str]] = {}
    async with aclosing(cast("AsyncGenerator[Json]", chunks)):
        async for chunk in chunks:
            if family is not None:
                for choice in chunk.get("choices") or ():
                    text = _text_at_end(choice, texts)
                    if text and (places := await places_of(text, family, upstream, request, sizes)):
                        choice["delta"] = {**choice["delta"], "grounding": places}
            yield chunk


def _text_at_end(choice: Json, texts: dict[int, list[str]]) -> str:
    """Add a delta's text to those of its choice; the whole text once the choice ends, empty before."""
    delta: Json = choice.get("delta") or {}
    pieces = texts.setdefault(choice.get("index", 0), [])
    if delta.get("content"):
        pieces.append(delta["content"])
    if choice.get("finish_reason") is None or not pieces:
        return ""
    return "".join(texts.pop(choice.get("index", 0)))[:LONGEST]


async def places_of(
    text: str, family: Family, upstream: Upstream, request: ChatRequest, sizes: Mapping[str, PixelSize]
) -> list[Json]:
    """The places in a text, as :class:`backends.wire.seeing.places.GroundedPlace`.

    ``sizes`` are those of pictures that were fetched for this call, by address.
    """
    spans = await read_spans(text, family)
    if not spans:
        return []
    shown = shown_in(request)
    known = [await size_of(url, sizes) for url in shown.urls]
    where = Where(shown, known, upstream, request)
    return [place for span in spans if (place := where.place(span)) is not None]


async def read_spans(text: str, family: Family) -> list[PlaceSpan]:
    """The places of a text; a long one is read in a thread."""
    if len(text) < _SHORT:
        return spans_of(text, family)
    return await asyncio.to_thread(spans_of, text, family)


class Where:
    """Maps the spans of one answer to its pictures."""

    def __init__(
        self, shown: ShownPictures, sizes: Sequence[PixelSize | None], upstream: Upstream, request: ChatRequest
    ) -> None:
        self._shown = shown
        self._sizes = sizes
        self._upstream = upstream
        self._limits = limits_of(upstream, request)

    def place(self, span: PlaceSpan) -> Json | None:
        """The place; None where no coordinate can be told, or a box has no area."""
        index, size = self._picture(span)
        sides = self._sides(span, index, size)
        if sides is None:
            return None
        fractions = [
            min(1.0, max(0.0, (number + span.grid.offset) / sides[at % 2]))
            for at, number in enumerate(span.numbers)
        ]
        kind = "point"
        if len(fractions) == 4:
            kind = "box"
            (left, right), (top, bottom) = sorted(fractions[::2]), sorted(fractions[1::2])
            if left >= right or top >= bottom:
                return None
            fractions = [left, top, right, bottom]
        pixels: Any = None
        if size is not None:
            pixels = [round(fraction * size[at % 2], 1) for at, fraction in enumerate(fractions)]
        return {
            "type": kind,
            "label": span.label,
            kind: pixels,
            "relative": [round(fraction, 5) for fraction in fractions],
            "image_index": index,
            "start_index": span.start,
            "end_index": span.end,
        }

    def _picture(self, span: PlaceSpan) -> tuple[int | None, PixelSize | None]:
        """The position and the size of the picture that a span is in, as far as they are known."""
        if span.picture is not None and 1 <= span.picture <= len(self._sizes):
            return span.picture - 1, self._sizes[span.picture - 1]
        if self._shown.meant is not None:
            return self._shown.meant, self._sizes[self._shown.meant]
        return None, self._sizes[0] if len(set(self._sizes)) == 1 else None

    def _sides(self, span: PlaceSpan, index: int | None, size: PixelSize | None) -> tuple[float, float] | None:
        """The numbers of the right and the lower edge."""
        if span.grid.side is not None:
            return span.grid.side, span.grid.side
        if size is None:
            return None
        low = self._shown.low[index] if index is not None else all(self._shown.low)
        return resized(sent_size(size, self._upstream, low=low), self._limits)
