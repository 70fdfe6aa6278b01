"""Writes constraints as llguidance's Lark grammars. Source: docs/syntax.md of llguidance."""

from __future__ import annotations

import re
from collections.abc import Sequence

import orjson

from catalog.types import Json

HEADER = "%llguidance {}\n"
"""The first line, by which llama-server tells such a grammar from GBNF."""

FREE_TEXT = r"/(\s*[^{\s](?s:.)*)?/"
"""Any text that does not begin with a brace, and so is not a call."""

_COMPACT: Json = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON on one line, as small models repeat whitespace without end where it is free. The separators are texts in
llguidance 1.0 and regular expressions in later versions."""


def grammar(rules: str) -> str:
    """A whole grammar; ``rules`` define ``start``."""
    return f"{HEADER}{rules}\n"


def after_thought(grammar: str, end: str) -> str:
    """The grammar behind a thought that the prompt has opened and ``end`` closes."""
    thought = f"start: thought gap answer\nthought[suffix={literal(end)}]: /(?s:.*)/\ngap: /\\s{{0,2}}/\n"
    return re.sub(r"^start:", f"{thought}answer:".replace("\\", r"\\"), grammar, count=1, flags=re.MULTILINE)


def until(grammar: str, token: str) -> str:
    """The grammar, after which the special token may come. A grammar in another language (GBNF) stays as it is.

    llama-server drops the whole grammar without a word if the vocabulary has no such token.
    """
    if not grammar.startswith(HEADER):
        return grammar
    return re.sub(r"^start:", f"start: ended {token}?\nended:", grammar, count=1, flags=re.MULTILINE)


def literal(text: str) -> str:
    """A text as a terminal."""
    return orjson.dumps(text).decode()


def json_value(schema: Json, *, lenient: bool = False) -> str:
    """A JSON value of a schema. ``lenient``: keywords that llguidance lacks are ignored, not refused."""
    options = {**_COMPACT, "lenient": True} if lenient else _COMPACT
    return f"%json {orjson.dumps({**schema, 'x-guidance': options}).decode()}"


def nested(grammar: str) -> str:
    """A whole grammar as a part of another, with rules of its own."""
    return f"%lark {{\n{grammar.removeprefix(HEADER).strip()}\n}}"


def choice(texts: Sequence[str]) -> str:
    """One of several texts."""
    return " | ".join(literal(text) for text in dict.fromkeys(texts))
