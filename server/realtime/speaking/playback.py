"""What of an answer was spoken when, so that an answer that is interrupted ends where its listener stopped
hearing.

A client plays audio at its own pace, from the first piece on without a pause unless the next comes late. The
server knows when it sent what, hence about how much was heard; the client's ``conversation.item.truncate`` says it
exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_WORD = re.compile(r"\S+\s*|\s+")


@dataclass(slots=True)
class Utterance:
    """A piece of text and its audio in milliseconds."""

    text: str
    milliseconds: float = 0.0


@dataclass(slots=True)
class Spoken:
    """The pieces of one answer. ``ends_at``: when its audio has been played, by the clock of :meth:`sent`."""

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

    def sent(self, milliseconds: float, now: float) -> None:
        """Audio was sent at ``now`` (seconds)."""
        self.utterances[-1].milliseconds += milliseconds
        self._sent += milliseconds
        self.ends_at = max(self.ends_at, now) + milliseconds / 1000

    def heard_at(self, now: float) -> float:
        """Milliseconds that a client has played by ``now``, if it plays at once."""
        return min(self._sent, max(0.0, self._sent - (self.ends_at - now) * 1000))

    def text_until(self, milliseconds: float) -> str:
        """The words of which at least the greater part was heard."""
        text, left = "", milliseconds
        for each in self.utterances:
            if left >= each.milliseconds:
                text += each.text
                left -= each.milliseconds
                continue
            share = left / each.milliseconds if each.milliseconds else 0.0
            words = _WORD.findall(each.text)
            length = share * len(each.text)
            taken = 0
            for word in words:
                if taken + len(word) / 2 > length:
                    break
                text += word
                taken += len(word)
            break
        return text
