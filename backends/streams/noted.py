"""Audio of speech that carries what the provider says of it: times of words, the id of its request."""

from __future__ import annotations

from typing import Any, Self

from catalog.types import Json


class NotedAudio(bytes):
    """Bytes of audio with ``notes``, fields that the encoder of events adds to the event of these bytes.

    Everything else in the gateway reads the bytes.
    """

    notes: Json

    @classmethod
    def of(cls, audio: bytes, **notes: Any) -> Self:
        made = cls(audio)
        made.notes = notes
        return made
