"""Structure of a prompt: counts of what code, mathematics, documents and lists have in every language."""

from __future__ import annotations

import re
from typing import NamedTuple

from routing.reading.tokens import Profile

_HEAD = 20_000
"""Characters of a prompt that the patterns search; the counts of :class:`Profile` cover all of it."""

_ITEM = re.compile(r"^[ \t]{0,8}(?:[-*+\u2022]|\d{1,3}[.)\u3001])[ \t]", re.MULTILINE)
_INDENTED = re.compile(r"^(?: {4}|\t| {2}(?=\S)).*[(){}\[\]=;:]", re.MULTILINE)
_CODE_LINE = re.compile(r"^.*(?:[;{}]|\)\s*:|->|=>|::)\s*$", re.MULTILINE)
_ARITHMETIC = re.compile(r"\d\s*[-+*/^=<>\u00d7\u00f7]\s*\d|[∑∫√≤≥≠∀∃∈]|\\(?:frac|sum|int|sqrt)\b")
_QUESTION = "?\uff1f\u061f\u037e\u055e\u1367"


class Shape(NamedTuple):
    """Structure of a request. Densities are per visible character; the rest are counts.

    ``instruction`` and ``material`` are estimated tokens of the last user message: of the shorter of its first
    and last paragraphs, and of all others. A document is usually sent as a short instruction and a long text.
    """

    tokens: int
    turns: int
    fences: int
    symbol_density: float
    digit_density: float
    arithmetic: int
    items: int
    questions: int
    code_lines: int
    lines: int
    tools: int
    schema_size: int
    labels: bool
    instruction: int
    material: int


def shape_of(
    text: str,
    profile: Profile,
    *,
    tokens: int,
    turns: int,
    tools: int = 0,
    schema_size: int = 0,
    labels: bool = False,
) -> Shape:
    """Structure of the last user message ``text`` with its ``profile``; ``tokens`` counts the whole prompt."""
    head = text[:_HEAD]
    visible = max(1.0, profile.length - profile.spaces - profile.newlines)
    lined = profile.newlines > 0
    instruction, material = _paragraphs(head, profile) if lined else (round(profile.tokens), 0)
    return Shape(
        tokens=tokens,
        turns=turns,
        fences=(head.count("```") + 1) // 2,
        symbol_density=profile.symbols / visible,
        digit_density=profile.digits / visible,
        arithmetic=len(_ARITHMETIC.findall(head)) if profile.digits or not head.isascii() or "\\" in head else 0,
        items=len(_ITEM.findall(head)) if lined else 0,
        questions=head.count("?") if head.isascii() else sum(head.count(mark) for mark in _QUESTION),
        code_lines=len(_CODE_LINE.findall(head)) + len(_INDENTED.findall(head)) if profile.symbols > 2 else 0,
        lines=round(profile.newlines) + 1,
        tools=tools,
        schema_size=schema_size,
        labels=labels,
        instruction=instruction,
        material=material,
    )


def _paragraphs(head: str, profile: Profile) -> tuple[int, int]:
    """``instruction`` and ``material`` of :class:`Shape`."""
    per_character = profile.tokens / max(1, profile.length)
    lengths = [len(part) for part in head.split("\n\n") if part and not part.isspace()]
    if len(lengths) < 2:
        lengths = [len(part) for part in head.split("\n") if part and not part.isspace()]
    if len(lengths) < 2:
        return round(profile.tokens), 0
    unseen = max(0, profile.length - len(head))
    ends = min(lengths[0], lengths[-1])
    return round(ends * per_character), round((sum(lengths) - ends + unseen) * per_character)


def looks_like_code(shape: Shape) -> bool:
    """Whether there is a code fence, or lines end, indent and are punctuated as in a program."""
    if shape.fences:
        return True
    share = shape.code_lines / shape.lines
    return shape.code_lines >= 2 and share >= 0.25 and shape.symbol_density >= 0.08


def looks_like_mathematics(shape: Shape) -> bool:
    """Whether there are several arithmetic operations, or one among many digits."""
    return shape.arithmetic >= 2 or (shape.arithmetic >= 1 and shape.digit_density >= 0.08)
