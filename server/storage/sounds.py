"""Transcripts of the sounds of chats, kept for a while: a conversation sends its sounds again with every turn."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

MOST_SOUNDS, MOST_CHARACTERS = 256, 500_000
KEPT_SECONDS = 1800.0
"""Seconds since a transcript was last asked for after which it is forgotten."""


class HeardSound(NamedTuple):
    """The text of a sound, and the id of the model that transcribed it."""

    text: str
    model: str


class HeardSounds:
    """Transcripts in this process's memory, by the key of their caller and the digest of the sound.

    A caller gets its own alone. The least recently used go first.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[str, bytes], tuple[HeardSound, float]] = OrderedDict()
        self._characters = 0

    def get(self, owner: str, digest: bytes) -> HeardSound | None:
        """The transcript of a sound that this caller sent lately."""
        found = self._kept.pop((owner, digest), None)
        if found is None:
            return None
        sound, used = found
        if self._clock() - used > KEPT_SECONDS:
            self._characters -= len(sound.text)
            return None
        self._kept[owner, digest] = (sound, self._clock())
        return sound

    def keep(self, owner: str, digest: bytes, sound: HeardSound) -> None:
        """Keep a transcript."""
        before = self._kept.pop((owner, digest), None)
        self._characters += len(sound.text) - (0 if before is None else len(before[0].text))
        self._kept[owner, digest] = (sound, self._clock())
        while len(self._kept) > MOST_SOUNDS or self._characters > MOST_CHARACTERS:
            _, (oldest, _) = self._kept.popitem(last=False)
            self._characters -= len(oldest.text)
