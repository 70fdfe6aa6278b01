"""Incremental detokenization: text of a token stream, without split characters and without stop sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from catalog.types import Json

_REPLACEMENT = "�"


class IncrementalDetokenizer:
    """Decodes tokens one at a time.

    A token's text can depend on its predecessors (SentencePiece's leading space), so each token is decoded after a
    few of them, beginning with the prompt's last ones. Bytes of an incomplete character are held back.
    """

    _BEFORE = 6

    def __init__(self, decode: Callable[[list[int]], str], prompt: Sequence[int]) -> None:
        self._decode = decode
        self._ids = list(prompt[-self._BEFORE :])
        self._start, self._read = 0, len(self._ids)

    def add(self, token: int) -> str:
        """Return the text that has become complete."""
        self._ids.append(token)
        return self._text(whole=False)

    def end(self) -> str:
        """Return the remaining text, with U+FFFD for incomplete characters."""
        return self._text(whole=True)

    def _text(self, *, whole: bool) -> str:
        known = self._decode(self._ids[self._start : self._read])
        text = self._decode(self._ids[self._start :])
        if len(text) <= len(known) or (text.endswith(_REPLACEMENT) and not whole):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return text[len(known) :]


class StopFilter:
    """Finds the first stop sequence in a stream of text, and holds back text that may begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._kept = ""
        self.sequence: str | None = None

    @property
    def found(self) -> bool:
        """Whether a stop sequence is complete."""
        return self.sequence is not None

    def feed(self, text: str) -> str:
        """Return the text that cannot be part of a stop sequence; sets ``sequence`` to the first complete one."""
        text = self._kept + text
        places = [(at, len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if places:
            at, _, self.sequence = min(places)
            self._kept = ""
            return text[:at]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._kept = text[len(text) - kept :]
        return text[: len(text) - kept]

    def end(self) -> str:
        """Return the text held back, at the end of a stream without a stop sequence."""
        text, self._kept = self._kept, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Count the characters at the end of ``text`` that are a beginning of ``stop``."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


@dataclass(slots=True)
class VisibleText:
    """The visible text of one choice while it is decoded, with the logprobs of exactly its tokens."""

    text: IncrementalDetokenizer
    stop: StopFilter
    _waiting: list[tuple[int, Json]] = field(default_factory=list)
    _decoded: int = 0
    _shown: int = 0

    def add(self, token: int, logprob: Json | None) -> tuple[str, list[Json]]:
        """Add a token; return the text and logprobs that have become visible."""
        piece = self.text.add(token)
        self._decoded += len(piece)
        if logprob is not None:
            self._waiting.append((self._decoded, logprob))
        return self._show(self.stop.feed(piece))

    def end(self) -> tuple[str, list[Json]]:
        """Return the remaining text and logprobs, at the end of a stream without a stop sequence."""
        piece = self.text.end()
        shown = self.stop.feed(piece)
        if not self.stop.found:
            shown += self.stop.end()
        said, logprobs = self._show(shown)
        if not self.stop.found:
            logprobs += [entry for _, entry in self._waiting]
            self._waiting = []
        return said, logprobs

    def _show(self, text: str) -> tuple[str, list[Json]]:
        self._shown += len(text)
        count = 0
        while count < len(self._waiting) and self._waiting[count][0] <= self._shown:
            count += 1
        entries = [entry for _, entry in self._waiting[:count]]
        del self._waiting[:count]
        return text, entries
