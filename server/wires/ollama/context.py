"""The ``context`` of ``/api/generate``: the conversation so far, as a list of numbers that the client sends back.

Ollama's own is the tokens of the conversation, which only one model understands. This one is the messages' text,
so that any model can continue: compressed JSON, six bytes a number, which JavaScript still holds exactly.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal

import orjson

from catalog.errors import InvalidRequest

MAX_TEXT = 1_000_000
"""Bytes of the JSON of a conversation; a longer one gets no context."""
_MARK = 0x524F554E4401
"""The first number of every context, by which one of another server is known."""
_BYTES = 6

Turn = tuple[Literal["system", "user", "assistant"], str]
"""Role and text."""


def encode_context(turns: Sequence[Turn]) -> list[int] | None:
    """The context of a conversation; ``None`` for one that is too long."""
    text = orjson.dumps(turns)
    if len(text) > MAX_TEXT:
        return None
    packed = zlib.compress(text)
    padded = packed + bytes(-len(packed) % _BYTES)
    numbers = [int.from_bytes(padded[at : at + _BYTES], "big") for at in range(0, len(padded), _BYTES)]
    return [_MARK, len(packed), *numbers]


def decode_context(context: Sequence[int]) -> list[Turn]:
    """The conversation of a context. Raises InvalidRequest for one that this server did not make."""
    if not context:
        return []
    try:
        mark, length, *numbers = context
        packed = b"".join(number.to_bytes(_BYTES, "big") for number in numbers)[:length]
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(packed, MAX_TEXT)
        turns = orjson.loads(text) if mark == _MARK and unpacking.eof else None
    except (ValueError, OverflowError, zlib.error):
        turns = None
    if not isinstance(turns, list) or not all(map(_is_turn, turns)):
        raise InvalidRequest(
            "'context' must be the one of an earlier answer of this server, unchanged.", param="context"
        )
    return [(role, text) for role, text in turns]


def _is_turn(turn: object) -> bool:
    return (
        isinstance(turn, list)
        and len(turn) == 2
        and turn[0] in ("system", "user", "assistant")
        and isinstance(turn[1], str)
    )
