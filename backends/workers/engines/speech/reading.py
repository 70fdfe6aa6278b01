"""Bounds on what the voices read: words without spaces, and sounds of one text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from catalog.errors import InvalidRequest

LONGEST_NUMBER = 15
"""Digits of the longest number that is read as one; longer ones are read digit by digit (hibari's own names of
numbers end at 36 digits, with an IndexError)."""
DIGITS_A_CLAUSE = 10
PARTS_OF_A_WORD = 16
"""Letter runs, numbers and symbols after which a word without spaces is broken: hibari's rules need time cubic in
them (8 s for 400 times ``a/``). An address as a rule has fewer."""
PHONEMES_ALWAYS, PHONEMES_A_CHARACTER = 2_000, 2
"""A text may have this many phonemes, plus so many for each of its characters. English prose has 1.05 a character,
dates 4, a long number 5, and a page of percent signs 8."""

_NUMBER = re.compile(r"\d+(?:,\d+)*")
_WORD = re.compile(r"\S+")
_PART = re.compile(r"\d[\d,.]*|[^\W\d_]+|.", re.DOTALL)


def readable(text: str) -> str:
    """Write long numbers as digits in clauses of ten, and break long words of many parts with spaces."""
    return _WORD.sub(_broken, _NUMBER.sub(_digits, text))


def _digits(found: re.Match[str]) -> str:
    each = [str(int(character)) for character in found[0] if character != ","]
    if len(each) <= LONGEST_NUMBER:
        return found[0]
    starts = range(0, len(each), DIGITS_A_CLAUSE)
    return ", ".join(" ".join(each[start : start + DIGITS_A_CLAUSE]) for start in starts)


def _broken(found: re.Match[str]) -> str:
    word = found[0]
    if len(word) <= PARTS_OF_A_WORD:
        return word
    parts = _PART.findall(word)
    starts = range(0, len(parts), PARTS_OF_A_WORD)
    return " ".join("".join(parts[start : start + PARTS_OF_A_WORD]) for start in starts)


def check_length(text: str, phonemes: Iterable[str]) -> None:
    """Raises InvalidRequest for a text that would be spoken for much longer than its length suggests."""
    count, most = sum(map(len, phonemes)), PHONEMES_ALWAYS + PHONEMES_A_CHARACTER * len(text)
    if count > most:
        raise InvalidRequest(
            f"Read aloud, these {len(text)} characters are {count} phonemes, and at most {most} are spoken at "
            "once: numbers and symbols are long when read. Send the text in shorter parts.",
            param="input",
        )
