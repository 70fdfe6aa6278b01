"""Complexity and task of a prompt, from its structure alone, so that they work in every language.

Only counts and patterns are used that code, mathematics, documents and lists have in any language.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from routing.facts import Complexity, Task
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


def complexity_of(shape: Shape) -> Complexity:
    """Complexity from a sum of bounded signs of difficulty: medium from 1.0, complex from 2.2."""
    score = (
        min(2.0, shape.tokens / 1500)
        + min(1.0, max(0, shape.turns - 1) / 8)
        + min(1.0, shape.items / 6)
        + min(1.0, max(0, shape.questions - 1) / 3)
        + min(1.0, shape.arithmetic / 3)
        + min(1.0, shape.tools / 6)
        + min(1.0, shape.schema_size / 20)
    )
    if score >= 2.2:
        return Complexity.COMPLEX
    if looks_like_code(shape):
        return Complexity.CODE
    return Complexity.MEDIUM if score >= 1.0 or shape.tokens >= 250 else Complexity.SIMPLE


def task_of(shape: Shape, *, images: bool, output_tokens: int | None) -> Task:
    """Task of a chat. The signs are tried from the most to the least certain."""
    if images:
        return Task.VISION
    if shape.tools:
        return Task.TOOL_USE
    if shape.labels:
        return Task.CLASSIFY
    if shape.schema_size:
        return Task.EXTRACT
    if looks_like_code(shape):
        return Task.CODE
    if looks_like_mathematics(shape):
        return Task.REASONING
    if output_tokens is not None and output_tokens <= 5:
        return Task.CLASSIFY
    if shape.material >= 300 and shape.instruction <= 60 and shape.questions <= 1:
        return Task.SUMMARISE
    return Task.CHAT
