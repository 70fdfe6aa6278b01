"""Readers of languages whose spelling tells their sounds: tokens, numbers and marks, around one language's rules.

The sounds are written as espeak-ng writes them, since Kokoro's models were trained on its phonemes for these
languages: stress marks stand before the vowel, and affricates and some diphthongs are one letter (``ʧ``, ``I``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from backends.workers.engines.speech.phonemes.words import Reader, Word

VOWELS = frozenset("aeiouyæɐɑɔɛəœøɪʊʌɨɯAIOQWY")
STRESS = "ˈ"
_MARKS: Mapping[str, str] = {
    "«": "\u201c", "»": "\u201d", "\u201e": "\u201c", "\u2039": "\u201c", "\u203a": "\u201d", "[": "(", "]": ")",
    "{": "(", "}": ")", "\u2013": "\u2014", "\u2014": "\u2014", "\u0964": ".", "\u0965": ".",
    **{mark: mark for mark in ";:,.!?\u2026\"()\u201c\u201d"},
}  # fmt: skip
_LETTER = r"(?:[^\W\d_]|[\u0300-\u036f\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963])"
"""A letter, or a sign that is part of one."""
_TOKEN = re.compile(
    r"\d+(?:[.,\u00a0\u202f]\d{3})+(?:[.,]\d+)?(?!\d)|\d+(?:[.,]\d+)?"
    rf"|{_LETTER}+(?:['\u2019]{_LETTER}+)*['\u2019]?|\s+|.",
    re.DOTALL,
)
_GROUPS = re.compile(r"[.,\u00a0\u202f](?=\d{3}(?!\d))")


class Language(Protocol):
    """The rules of one language. ``script`` is the beginning of the Unicode names of its letters."""

    script: str
    symbols: Mapping[str, str]
    """The names of symbols, such as ``%``."""
    point: str
    """The word between a whole number and its decimals."""

    def cardinal(self, number: int) -> str:
        """A number below 10^15 in words."""
        ...

    def word(self, word: str, before: Sequence[Word]) -> str:
        """The phonemes of a word in lower case. ``before`` are the words since the last pause."""
        ...


class Rules:
    """A reader by the rules of one language, which are pure. ``others`` reads words of another script."""

    def __init__(self, language: Language, *, others: Reader | None = None) -> None:
        self._language = language
        self._others = others

    def __call__(self, sentence: str) -> Sequence[Word]:
        """See :class:`Reader`."""
        found: list[Word] = []
        clause: list[Word] = []
        for text, space in _tokens(unicodedata.normalize("NFC", sentence)):
            if (mark := _MARKS.get(text)) is not None:
                found.append(Word(text, mark, space))
                clause = []
                continue
            if self._others is not None and text[0].isalpha() and not self._own(text):
                foreign = self._others(text)
                found += [*foreign[:-1], *(replace(last, space=space) for last in foreign[-1:])]
                continue
            names = self._names(text)
            if not names:
                continue
            read: list[str] = []
            for name in names:
                word = Word(name, self._language.word(name, clause))
                clause.append(word)
                read.append(word.phonemes)
            found.append(Word(text, " ".join(filter(None, read)), space))
        return found

    def _own(self, token: str) -> bool:
        return unicodedata.name(token[0], "").startswith(self._language.script)

    def _names(self, token: str) -> list[str]:
        """The words that a token is read as."""
        if token[0].isdigit():
            return self._number(token)
        if any(character.isalpha() for character in token):
            return [token.lower()]
        name = self._language.symbols.get(token)
        return name.split() if name else []

    def _number(self, token: str) -> list[str]:
        whole, _, decimals = _GROUPS.sub("", token).replace(",", ".").partition(".")
        words = self._language.cardinal(int(whole)).split()
        if decimals:
            words += self._language.point.split()
            for digit in decimals:
                words += self._language.cardinal(int(digit)).split()
        return words


def _tokens(sentence: str) -> Iterator[tuple[str, bool]]:
    """The tokens of a sentence, and whether a space follows each."""
    parts = _TOKEN.findall(sentence.strip())
    for n, part in enumerate(parts):
        if not part.isspace():
            yield part, n + 1 < len(parts) and parts[n + 1].isspace()


def words(text: str) -> tuple[str, ...]:
    """The words of a text, for tables that would be long as lists."""
    return tuple(text.split())


def thousands(
    number: int, *, below: Callable[[int], str], scales: Sequence[tuple[int, Callable[[str, int], str]]]
) -> str:
    """A number in words. ``scales`` are powers of ten, the largest first, each with a function that gets the words
    and the number of its multiple; ``below`` names what is below the smallest.
    """
    found = []
    for scale, name in scales:
        count, number = divmod(number, scale)
        if count:
            found.append(name(thousands(count, below=below, scales=scales), count))
    if number or not found:
        found.append(below(number))
    return " ".join(found)
