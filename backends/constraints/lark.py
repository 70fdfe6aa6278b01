"""Writes constraints as llguidance's Lark grammars. Source: docs/syntax.md of llguidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from catalog.types import Json

HEADER = "%llguidance {}\n"
"""The first line, by which llama-server tells such a grammar from GBNF."""

FREE_TEXT = r"/(\s*[^{\s](?s:.)*)?/"
"""Any text that does not begin with a brace, and so is not a call."""

_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"
"""Small models repeat whitespace without end where a schema allows any."""


def grammar(rules: str) -> str:
    """A whole grammar; ``rules`` define ``start``."""
    return f"{HEADER}{rules}\n"


def literal(text: str) -> str:
    """A text as a terminal."""
    return orjson.dumps(text).decode()


def json_value(schema: Json, *, lenient: bool = False) -> str:
    """A JSON value of a schema. ``lenient``: keywords that llguidance lacks are ignored, not refused."""
    options: dict[str, Any] = {"whitespace_pattern": _WHITESPACE}
    if lenient:
        options["lenient"] = True
    return f"%json {orjson.dumps({**schema, 'x-guidance': options}).decode()}"


def choice(texts: Sequence[str]) -> str:
    """One of several texts."""
    return " | ".join(literal(text) for text in dict.fromkeys(texts))
