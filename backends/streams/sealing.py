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
