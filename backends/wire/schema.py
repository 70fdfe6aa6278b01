"""Bounds of a caller's JSON schema, so that compiling it into a grammar takes bounded work.

Bounded are depth, size, and regular expressions. An expression is refused by its text: an unbounded repetition
within another (``(a+)+``), alternatives that begin alike under an unbounded repetition (``(a|ab)*``), counted
repetitions that multiply (``(a{1000}){1000}``), and back-references. Source: Weideman et
al., "Analyzing Matching Time Behavior of Backtracking Regular Expression Matchers" (2016).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator

MAX_DEPTH = 64
MAX_NODES = 10_000
MAX_CHARACTERS = 500_000
MAX_PATTERN = 1000
MAX_PATTERNS = 200
MAX_REPEATS = 10_000
"""The largest product of the counted repetitions of one expression."""

_MANY = 10**9
_COUNT = re.compile(r"\{(\d{1,9})?(,)?(\d{1,9})?\}")
_TOKEN = re.compile(r"\\[xu][0-9A-Fa-f]{2,4}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)


def bounded_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema itself. Raises ValueError that names the bound which it exceeds."""
    nodes = characters = patterns = 0
    stack: list[tuple[Any, int]] = [(schema, 1)]
    while stack:
        node, depth = stack.pop()
        nodes += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"the schema is nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, dict):
            characters += sum(map(len, node))
            for pattern in _patterns(node):
                patterns += 1
                check_pattern(pattern)
            stack.extend((value, depth + 1) for value in node.values())
        elif isinstance(node, list):
            stack.extend((value, depth + 1) for value in node)
        elif isinstance(node, str):
            characters += len(node)
        if nodes + len(stack) > MAX_NODES or characters > MAX_CHARACTERS:
            raise ValueError(f"the schema is larger than {MAX_NODES} values or {MAX_CHARACTERS} characters")
        if patterns > MAX_PATTERNS:
            raise ValueError(f"the schema has more than {MAX_PATTERNS} patterns")
    return schema


Schema = Annotated[dict[str, Any], AfterValidator(bounded_schema)]
"""A JSON schema within these bounds."""


def _patterns(node: dict[str, Any]) -> Iterator[str]:
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        yield pattern
    by_pattern = node.get("patternProperties")
    if isinstance(by_pattern, dict):
        yield from by_pattern


@dataclass(slots=True)
class _Group:
    """A group of an expression, as far as it was read.

    ``weight`` is the largest product of nested counted repetitions, ``endless`` the tokens repeated without a
    bound, ``fixed`` the tokens that every match holds once, ``begins`` the first token of each alternative.
    """

    weight: int = 1
    endless: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    begins: list[str] = field(default_factory=lambda: [""])


def check_pattern(pattern: str) -> None:
    """Raises ValueError for an expression that is too long, could take too long to match, or is malformed."""
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern is longer than {MAX_PATTERN} characters")
    groups = [_Group()]
    item: _Group | None = None  # the last thing that a quantifier could follow
    position = 0
    while position < len(pattern):
        found = _COUNT.match(pattern, position)
        if item is not None and (pattern[position] in "*+?" or (found is not None and found[0] != "{,}")):
            position = _quantified(pattern, position, found, item, groups[-1])
            item = None
            continue
        token = _TOKEN.match(pattern, position)
        assert token is not None, "every character is a token"
        text, position = token[0], token.end()
        item = None
        if text == "(":
            position += len(_opening(pattern, position))
            groups.append(_Group())
            if len(groups) > MAX_DEPTH:
                raise ValueError("a pattern has too many groups within groups")
        elif text == ")":
            if len(groups) == 1:
                raise ValueError("a pattern closes a group that it did not open")
            item = groups.pop()
            _join(groups[-1], item)
        elif text == "|":
            groups[-1].begins.append("")
        else:
            item = _atom(text)
            _join(groups[-1], item)
            if _followed(pattern, position):
                continue
            groups[-1].fixed |= item.fixed
    if len(groups) > 1:
        raise ValueError("a pattern does not close its group")


def looks_around(pattern: str) -> bool:
    """Whether an expression has a look-ahead or a look-behind."""
    return any(each[0] == "(" and _opening(pattern, each.end()) in _AROUND for each in _TOKEN.finditer(pattern))


_AROUND = frozenset({"?=", "?!", "?<=", "?<!"})


def _atom(text: str) -> _Group:
    """The group of one character, escape or class. Raises ValueError for an open class or a back-reference."""
    if text == "[":
        raise ValueError("a pattern does not close its class")
    if re.fullmatch(r"\\[1-9k]", text):
        raise ValueError("a pattern has a back-reference, which a grammar cannot express")
    return _Group(begins=[text], fixed=frozenset({text}))


def _opening(pattern: str, position: int) -> str:
    """The marks after an opening parenthesis: ``?:``, ``?=``, ``?<name>``."""
    marks = re.compile(r"\?(?:[:=!]|<[=!]|P?<\w{1,32}>)").match(pattern, position)
    return marks[0] if marks else ""


def _join(group: _Group, item: _Group) -> None:
    if not group.begins[-1]:
        group.begins[-1] = item.begins[0]
    group.weight = max(group.weight, item.weight)
    group.endless |= item.endless


def _followed(pattern: str, position: int) -> bool:
    """Whether a quantifier follows at this position."""
    return pattern[position : position + 1] in ("*", "+", "?") or _COUNT.match(pattern, position) is not None


def _separated(item: _Group) -> bool:
    """Whether each repetition of a group holds a character that no unbounded token within it matches."""
    if len(item.begins) > 1:
        return False
    marks = [text[-1] for text in item.fixed if (len(text) == 1 and text != ".") or re.fullmatch(r"\\\W", text)]
    return any(not any(_swallows(text, mark) for text in item.endless) for mark in marks)


def _swallows(text: str, mark: str) -> bool:
    """Whether a token matches a character; true for a class that dialects of expressions read differently."""
    if text[0] == "[" and any(part in text[1:] for part in ("[", "--", "&&", "~~", "||")):
        return True
    try:
        return re.fullmatch(text, mark) is not None
    except re.error:
        return True


def _quantified(pattern: str, position: int, found: re.Match[str] | None, item: _Group, group: _Group) -> int:
    """Apply a quantifier to ``item``, and give the position after it."""
    mark = pattern[position]
    if found is not None:
        end = found.end()
        low, high = int(found[1] or 0), int(found[3] or 0) if found[2] else int(found[1] or 0)
        most = _MANY if found[2] and not found[3] else max(low, high)
        times = max(low, high)
    else:
        end = position + 1
        most, times = (1, 1) if mark == "?" else (_MANY, 1)
    if most == _MANY:
        if item.endless and not _separated(item):
            raise ValueError("a pattern has an unbounded repetition within another, which can take for ever")
        alternatives = item.begins
        if len(set(alternatives)) < len(alternatives) or (len(alternatives) > 1 and "." in alternatives):
            raise ValueError("a pattern repeats alternatives that begin alike, which can take for ever")
        item.endless |= frozenset(item.begins) | item.fixed
    item.weight *= max(1, times)
    if item.weight > MAX_REPEATS:
        raise ValueError(f"a pattern repeats something more than {MAX_REPEATS} times")
    group.endless |= item.endless
    group.weight = max(group.weight, item.weight)
    return end + (end < len(pattern) and pattern[end] in "?+")
