"""Words with their phonemes, and the pieces of them that are spoken in one call of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

PHONEMES_A_PIECE = 200
"""Phonemes of one synthesis call, about 12 s of speech: other texts are served between two calls."""

_PAUSES = frozenset(",;:\u2014.!?\u2026")


@dataclass(frozen=True, slots=True)
class Word:
    """A word, number or mark of a sentence. ``phonemes`` are of Kokoro's alphabet (marks stand for themselves, and
    an empty string is not spoken); ``space`` tells whether a space follows.
    """

    text: str
    phonemes: str
    space: bool = True

    @property
    def spoken(self) -> str:
        return f"{self.phonemes} " if self.space else self.phonemes

    @property
    def pauses(self) -> bool:
        return self.phonemes[-1:] in _PAUSES


Piece = Sequence[Word]
"""Words that are spoken in one call of a model."""


class Reader(Protocol):
    """Reads a sentence of one language. Thread-safe."""

    def __call__(self, sentence: str) -> Sequence[Word]:
        """The words in order. Raises InvalidRequest for a sentence that cannot be read."""
        ...


def phonemes_of(words: Sequence[Word]) -> str:
    """The phonemes of words in a row, without spaces at the ends."""
    return "".join(word.spoken for word in words).strip()


def pieces(words: Sequence[Word], most: int = PHONEMES_A_PIECE) -> Iterator[Piece]:
    """Cut words into pieces of at most ``most`` phonemes: after the last pause that fits, else between words.

    A longer word is cut anywhere. A piece without a phoneme is left out.
    """
    rest = list(_short(words, most))
    while rest:
        size = end = 0
        for word in rest:
            size += len(word.spoken)
            if size - word.space > most:
                break
            end += 1
        if end < len(rest):
            end = next((n for n in range(end, 0, -1) if rest[n - 1].pauses), end)
        if phonemes_of(rest[:end]):
            yield rest[:end]
        rest = rest[end:]


def _short(words: Sequence[Word], most: int) -> Iterator[Word]:
    """The words; one of more than ``most`` phonemes as several, the first with its text."""
    for word in words:
        if len(word.phonemes) <= most:
            yield word
            continue
        for start in range(0, len(word.phonemes), most):
            last = start + most >= len(word.phonemes)
            yield Word("" if start else word.text, word.phonemes[start : start + most], word.space and last)
