"""Cuts a text that is still being written into pieces that a voice can speak one after another.

The first piece is short, so that the sound begins early: it may end at a comma. Later ones are whole sentences,
whose melody is better. Marks of Markdown are not spoken.
"""

from __future__ import annotations

import re

_WIDE_END = "\u3002\uff01\uff1f"
_SENTENCE = re.compile(rf"[.!?\u2026{_WIDE_END}]+[\"'\u201d\u2019)\]]*(?=\s)|[{_WIDE_END}]|\n+")
_CLAUSE = re.compile(r"[,;:\u2013\u2014]+(?=\s)|[\uff0c\uff1b\uff1a\u3001]")
_NOT_AN_END = re.compile(r"(?:^|[\s(])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|No|z\.B|bzw|\d+)\.$")
_FIRST_CLAUSE = 12
"""Characters of the shortest first piece that ends within a sentence."""
_LONGEST = 220
"""Characters after which a piece ends at a clause, and at twice as many at a space."""
_MARKS = re.compile(r"[*_`#>|~]+|^\s*[-+]\s+|\[([^\]]*)\]\([^)]*\)", re.MULTILINE)


class TextPieces:
    """Collects a text in any portions."""

    def __init__(self) -> None:
        self._text = ""
        self._first = True

    def add(self, text: str) -> list[str]:
        """The pieces that are whole now."""
        self._text += text
        found = []
        while (end := self._end()) is not None:
            found.append(self._text[:end])
            self._text = self._text[end:]
            self._first = self._first and not speakable(found[-1])
        return found

    def rest(self) -> str:
        """The rest at the end of the text."""
        rest, self._text = self._text, ""
        return rest

    def _end(self) -> int | None:
        for match in _SENTENCE.finditer(self._text):
            if _NOT_AN_END.search(self._text[: match.end()]) is None:
                return self._with_space(match.end())
        if self._first or len(self._text) > _LONGEST:
            for match in _CLAUSE.finditer(self._text):
                if match.end() >= _FIRST_CLAUSE:
                    return self._with_space(match.end())
        if len(self._text) > 2 * _LONGEST:
            space = self._text.rfind(" ", 0, 2 * _LONGEST)
            return space + 1 if space > 0 else 2 * _LONGEST
        return None

    def _with_space(self, end: int) -> int:
        while end < len(self._text) and self._text[end].isspace():
            end += 1
        return end


def speakable(text: str) -> str:
    """A piece as a voice should get it; empty if there is nothing to say."""
    plain = _MARKS.sub(lambda match: match[1] or "", text).strip()
    return plain if any(letter.isalnum() for letter in plain) else ""
