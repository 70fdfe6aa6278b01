"""Reasoning items as thinking blocks of a chat, so that a conversation without stored responses keeps them.

A block is the item itself, with ``endpoint``, the server that encrypted it, and ``before``, the call that followed
it (null: the text). No other server can read it, so it is sent to that endpoint alone. Calls of the server's own
tools, which the reasoning led to, are blocks too.
"""

from __future__ import annotations

from typing import Any

from backends.base import Upstream
from backends.translation import Dropped
from catalog.types import Json

_FIELDS = ("type", "id", "summary", "content", "encrypted_content")


def block_of(item: Json, upstream: Upstream, before: str | None) -> Json | None:
    """The thinking block of a finished item; None for reasoning that cannot be sent back."""
    if item["type"] == "reasoning":
        if not item.get("encrypted_content"):
            return None
        item = {name: item[name] for name in _FIELDS if item.get(name) is not None}
    return {**item, "endpoint": upstream.endpoint, "before": before}


def items_of(message: Json, upstream: Upstream, dropped: Dropped) -> list[tuple[str | None, Json]]:
    """The items in the thinking blocks of an assistant's message, each with the call that it stands before.

    Reasoning and calls of another provider are dropped.
    """
    blocks = message.get("thinking_blocks")
    given = blocks if isinstance(blocks, list) else []
    own = [block for block in given if _is_own(block, upstream)]
    if len(own) < len(given):
        dropped.add("messages.thinking_blocks")
    if not own:
        dropped.add(
            *(f"messages.{name}" for name in ("reasoning_content", "server_tool_calls") if message.get(name))
        )
    return [(block.get("before"), _item(block)) for block in own]


def _item(block: Json) -> Json:
    item = {name: value for name, value in block.items() if name not in ("endpoint", "before", "index")}
    return {"summary": [], **item} if item["type"] == "reasoning" else item


def _is_own(block: Any, upstream: Upstream) -> bool:
    return (
        isinstance(block, dict)
        and block.get("endpoint") == upstream.endpoint
        and isinstance(block.get("id"), str)
        and (block.get("type") != "reasoning" or isinstance(block.get("encrypted_content"), str))
    )
