"""Reasoning items as thinking blocks of a chat, so that a conversation without stored responses keeps them.

A block is the item itself, with ``endpoint``, the server that encrypted it, and ``before``, the call that followed
it (null: the text). No other server can read it, so it is sent to that endpoint alone.
"""

from __future__ import annotations

from typing import Any

from backends.base import Upstream
from backends.translation import Dropped
from catalog.types import Json

_FIELDS = ("type", "id", "summary", "content", "encrypted_content")


def block_of(item: Json, upstream: Upstream, before: str | None) -> Json | None:
    """The thinking block of a finished reasoning item; None for one that cannot be sent back."""
    if not item.get("encrypted_content"):
        return None
    kept = {name: item[name] for name in _FIELDS if item.get(name) is not None}
    return {**kept, "endpoint": upstream.endpoint, "before": before}


def items_of(message: Json, upstream: Upstream, dropped: Dropped) -> list[tuple[str | None, Json]]:
    """The reasoning items of an assistant's message, each with the call that it stands before.

    Reasoning of another provider is dropped.
    """
    blocks = message.get("thinking_blocks")
    given = blocks if isinstance(blocks, list) else []
    own = [block for block in given if _is_own(block, upstream)]
    if len(own) < len(given):
        dropped.add("messages.thinking_blocks")
    if message.get("reasoning_content") and not own:
        dropped.add("messages.reasoning_content")
    return [
        (block.get("before"), {"summary": [], **{name: block[name] for name in _FIELDS if name in block}})
        for block in own
    ]


def _is_own(block: Any, upstream: Upstream) -> bool:
    return (
        isinstance(block, dict)
        and block.get("type") == "reasoning"
        and block.get("endpoint") == upstream.endpoint
        and isinstance(block.get("encrypted_content"), str)
        and isinstance(block.get("id"), str)
    )
