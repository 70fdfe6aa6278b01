"""Moves system messages to the beginning, for chat templates that take none elsewhere (Qwen's)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from catalog.types import Json

SYSTEM = frozenset({"system", "developer"})
MOVED = "messages.system"
"""The reported name of a system message that stands elsewhere than the caller put it."""


def has_late_system(roles: Sequence[str]) -> bool:
    """Whether a system message stands behind the first message, by the roles of all."""
    return not SYSTEM.isdisjoint(roles[1:])


def without_developer(messages: list[Json]) -> list[Json] | None:
    """The messages, or items, with the role ``system`` in place of ``developer``; None if none has that."""
    if not any(message.get("role") == "developer" for message in messages):
        return None
    return [
        {**message, "role": "system"} if message.get("role") == "developer" else message for message in messages
    ]


def system_first(messages: list[Json]) -> list[Json]:
    """The messages with the texts of all system messages in the first one."""
    system = [message for message in messages if message["role"] in SYSTEM]
    rest = [message for message in messages if message["role"] not in SYSTEM]
    return [{**system[0], "role": "system", "content": joined([m.get("content") for m in system])}, *rest]


def joined(contents: list[Any]) -> str | list[Json]:
    """The contents as one text with a blank line between messages; as parts if one of them is not text."""
    if any(isinstance(part, dict) and part.get("type") != "text" for c in contents for part in c or ()):
        texts = [[{"type": "text", "text": c}] if isinstance(c, str) else c for c in contents if c]
        return [part for parts in texts for part in parts]
    each = ("\n".join(part.get("text") or "" for part in c) if isinstance(c, list) else c for c in contents)
    return "\n\n".join(text for text in each if text)
