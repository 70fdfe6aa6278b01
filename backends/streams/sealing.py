"""Thinking blocks inside an opaque field of another API, so that a caller of that API gives them back.

The Responses API has ``encrypted_content`` and the Messages API ``signature`` for it. The gateway's prefix tells
such a field from a provider's own, which no other provider can read.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson

from catalog.types import Json

_SEAL = "rh1."
_STAMP = "rho."


def encode_thinking(thinking_blocks: list[Json]) -> str:
    """Encode thinking blocks as one opaque text."""
    return _SEAL + base64.urlsafe_b64encode(orjson.dumps(thinking_blocks)).decode()


def is_encoded(text: Any) -> bool:
    """Whether a text is one of :func:`encode_thinking`."""
    return isinstance(text, str) and text.startswith(_SEAL)


def decode_thinking(text: Any) -> list[Json]:
    """Decode the blocks of :func:`encode_thinking`; an empty list for any other text."""
    if not is_encoded(text):
        return []
    try:
        blocks = orjson.loads(base64.urlsafe_b64decode(text[len(_SEAL) :]))
    except (binascii.Error, ValueError):
        return []
    return [block for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []


def stamped(text: str, endpoint: str) -> str:
    """A provider's own opaque text with the endpoint that it came from, for callers who give it back here."""
    return f"{_STAMP}{base64.urlsafe_b64encode(endpoint.encode()).decode()}.{text}"


def unstamped(text: Any) -> tuple[str | None, Any]:
    """The endpoint and the text of :func:`stamped`; None and the text itself for any other."""
    if not isinstance(text, str) or not text.startswith(_STAMP):
        return None, text
    name, _, own = text[len(_STAMP) :].partition(".")
    try:
        return base64.urlsafe_b64decode(name).decode(), own
    except ValueError:
        return "", own
