"""The times at which an answer was spoken, so that an answer that is interrupted ends where its listener stopped
hearing.

A client plays audio at its own pace, from the first piece on without a pause unless the next comes late. The
server knows when it sent what, hence about how much was heard; the client's ``conversation.item.truncate`` says it
exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from unicodedata import east_asian_width

_WORD = re.compile(r"\S+\s*|\s+")
PACE_MS = 65.0
"""Milliseconds of sound for a character, before any text was spoken to its end: some 15 characters a second, which
is usual for speech in Latin letters."""
_WIDE = 3
"""Characters that one of East Asia's wide scripts counts as: it is a syllable."""


@dataclass(slots=True)
class Utterance:
    """A piece of text and its audio in milliseconds; ``whole`` once all of its audio was sent."""

    text: str
    milliseconds: float = 0.0
    whole: bool = False


@dataclass(slots=True)
class Spoken:
    """The pieces of one answer. ``ends_at``: when its audio has been played, by the clock of :meth:`sent`.

    ``pace`` is the milliseconds of a character, as :data:`PACE_MS`.
    """

    pace: float = PACE_MS
    utterances: list[Utterance] = field(default_factory=list)
    ends_at: float = 0.0
    _sent: float = 0.0

    @property
    def milliseconds(self) -> float:
        """The audio that was sent."""
        return self._sent

    @property
    def text(self) -> str:
        """All that was said, heard or not."""
        return "".join(each.text for each in self.utterances)

    def begin(self, text: str) -> None:
        """The audio that follows speaks this text."""
        self.utterances.append(Utterance(text))

    def end(self) -> None:
        """All audio of the last text was sent."""
        self.utterances[-1].whole = True

    def sent(self, milliseconds: float, now: float) -> None:
        """Audio was sent at ``now`` (seconds)."""
        self.utterances[-1].milliseconds += milliseconds
        self._sent += milliseconds
        self.ends_at = max(self.ends_at, now) + milliseconds / 1000

    def heard_at(self, now: float) -> float:
        """Milliseconds that a client has played by ``now``, if it plays at once."""
        return min(self._sent, max(0.0, self._sent - (self.ends_at - now) * 1000))

    def text_until(self, milliseconds: float) -> str:
        """The words of which at least the greater part was heard.

        The audio of a text that is not whole is taken to be as long as the pace says, or as what was sent.
        """
        text, left = "", milliseconds
        for each in self.utterances:
            if each.whole and left >= each.milliseconds:
                text += each.text
                left -= each.milliseconds
                continue
            length = each.milliseconds
            if not each.whole:
                length = max(length, self._pace() * _size(each.text))
            share = min(left, each.milliseconds) / length if length else 0.0
            return text + _beginning(each.text, share)
        return text

    def _pace(self) -> float:
        """Milliseconds of a character, of the texts that were spoken to their end."""
        ended = [each for each in self.utterances if each.whole and each.milliseconds]
        size = sum(_size(each.text) for each in ended)
        return sum(each.milliseconds for each in ended) / size if size else self.pace


def _size(text: str) -> int:
    """The characters of a text, as they count for its duration."""
    return sum(_WIDE if east_asian_width(character) in "WF" else 1 for character in text)


def _beginning(text: str, share: float) -> str:
    """The words of a text up to a share of it, and those whose greater part is within."""
    length, taken = share * len(text), 0
    for word in _WORD.findall(text):
        if taken + len(word) / 2 > length:
            break
        taken += len(word)
    return text[:taken]
