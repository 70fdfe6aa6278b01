"""Chunks that carry the provider's own event, for a caller that speaks the provider's language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from catalog.types import Json


class NativeChunk(dict[str, Any]):
    """A chunk with the ``event`` that it was read from.

    Everything in the gateway reads the chunk; the encoder at the door sends the event in its place.
    """

    __slots__ = ("event",)

    def __init__(self, chunk: Json, event: Json) -> None:
        super().__init__(chunk)
        self.event = event


def carry(chunks: Iterable[Json], event: Json) -> Iterator[Json]:
    """The chunks of one event, of which the last carries it; one without choices for an event that has none."""
    read = list(chunks)
    yield from read[:-1]
    yield NativeChunk(read[-1] if read else {"choices": []}, event)
