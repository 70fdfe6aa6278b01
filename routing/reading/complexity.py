"""How hard a prompt looks and what kind of work it is, from its structure alone: no word of any language.

Everything is read from counts and shapes that code, mathematics, documents and lists have in every language.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from routing.facts import Complexity, Task
from routing.reading.tokens import Profile

_HEAD = 20_000
"""Characters of a prompt whose lines are looked at; counts cover all of it."""

_ITEM = re.compile(r"^[ \t]{0,8}(?:[-*+\u2022]|\d{1,3}[.)\u3001])[ \t]", re.MULTILINE)
_INDENTED = re.compile(r"^(?: {4}|\t| {2}(?=\S)).*[(){}\[\]=;:]", re.MULTILINE)
_CODE_LINE = re.compile(r"^.*(?:[;{}]|\)\s*:|->|=>|::)\s*$", re.MULTILINE)
_ARITHMETIC = re.compile(r"\d\s*[-+*/^=<>\u00d7\u00f7]\s*\d|[∑∫√≤≥≠∀∃∈]|\\(?:frac|sum|int|sqrt)\b")
_QUESTION = "?\uff1f\u061f\u037e\u055e\u1367"


class Shape(NamedTuple):
    """What the structure of a request shows. Densities are per character; the rest are counts.

    ``asked`` and ``material`` are estimated tokens of the shortest and the longest paragraph of the last
    user message: a short instruction about a long text is how documents are handed over.
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
    asked: int
    material: int


def shape(
    text: str,
    profile: Profile,
    *,
    tokens: int,
    turns: int,
    tools: int = 0,
    schema_size: int = 0,
    labels: bool = False,
) -> Shape:
    """Read the last user message's structure; ``profile`` is of the same text, ``tokens`` of the whole prompt."""
    head = text[:_HEAD]
    visible = max(1.0, profile.length - profile.spaces - profile.newlines)
    lined = profile.newlines > 0
    asked, material = _paragraphs(head, profile) if lined else (round(profile.tokens), 0)
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
        asked=asked,
        material=material,
    )


def _paragraphs(head: str, profile: Profile) -> tuple[int, int]:
    per_character = profile.tokens / max(1, profile.length)
    lengths = [len(part) for part in head.split("\n\n") if part and not part.isspace()]
    if len(lengths) < 2:
        lengths = [len(part) for part in head.split("\n") if part and not part.isspace()]
    if len(lengths) < 2:
        return round(profile.tokens), 0
    unseen = max(0, profile.length - len(head))
    ends = min(lengths[0], lengths[-1])
    return round(ends * per_character), round((sum(lengths) - ends + unseen) * per_character)


def looks_like_code(seen: Shape) -> bool:
    """Fenced, or lines that end, indent and are punctuated as programs are."""
    if seen.fences:
        return True
    share = seen.code_lines / seen.lines
    return seen.code_lines >= 2 and share >= 0.25 and seen.symbol_density >= 0.08


def looks_like_mathematics(seen: Shape) -> bool:
    """Several operations on numbers, or a text in which figures stand close together."""
    return seen.arithmetic >= 2 or (seen.arithmetic >= 1 and seen.digit_density >= 0.08)


def complexity_of(seen: Shape) -> Complexity:
    """How hard it looks: a sum of what makes requests hard, with the limits at 1 and 2.2."""
    score = (
        min(2.0, seen.tokens / 1500)
        + min(1.0, max(0, seen.turns - 1) / 8)
        + min(1.0, seen.items / 6)
        + min(1.0, max(0, seen.questions - 1) / 3)
        + min(1.0, seen.arithmetic / 3)
        + min(1.0, seen.tools / 6)
        + min(1.0, seen.schema_size / 20)
    )
    if score >= 2.2:
        return Complexity.COMPLEX
    if looks_like_code(seen):
        return Complexity.CODE
    return Complexity.MEDIUM if score >= 1.0 or seen.tokens >= 250 else Complexity.SIMPLE


def task_of(seen: Shape, *, images: bool, output_tokens: int | None) -> Task:
    """What kind of work a chat is, the most binding sign first."""
    if images:
        return Task.VISION
    if seen.tools:
        return Task.TOOL_USE
    if seen.labels:
        return Task.CLASSIFY
    if seen.schema_size:
        return Task.EXTRACT
    if looks_like_code(seen):
        return Task.CODE
    if looks_like_mathematics(seen):
        return Task.REASONING
    if output_tokens is not None and output_tokens <= 5:
        return Task.CLASSIFY
    if seen.material >= 300 and seen.asked <= 60 and seen.questions <= 1:
        return Task.SUMMARISE
    return Task.CHAT
