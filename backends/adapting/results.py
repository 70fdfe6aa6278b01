"""Results of tools with pictures, sounds or files, for servers whose tool messages hold text alone."""

from __future__ import annotations

from collections.abc import Sequence, Set

from backends.wire.chat import ContentPart, Message
from backends.wire.media import is_text, media_type_of

_SEE_BELOW = "The result follows in the next message of the user."


def with_text_results(messages: Sequence[Message]) -> list[Message]:
    """The messages with media of tool messages in a user's message after the last result of the turn."""
    out: list[Message] = []
    moved: list[ContentPart] = []
    for message in messages:
        if moved and message.role != "tool":
            out.append(Message(role="user", content=moved))
            moved = []
        media = _media(message)
        if media:
            texts = [part for part in message.content or () if isinstance(part, ContentPart) and part not in media]
            note = ContentPart(type="text", text=_SEE_BELOW)
            out.append(message.model_copy(update={"content": texts or [note]}))
            moved += [ContentPart(type="text", text=f"Result of the tool call {message.tool_call_id}:"), *media]
        else:
            out.append(message)
    return [*out, Message(role="user", content=moved)] if moved else out


def in_call_order(messages: Sequence[Message]) -> list[Message]:
    """The messages with the results of each turn in the order of its calls, for providers that match by order."""
    out: list[Message] = []
    order: dict[str, int] = {}
    start = 0
    for message in messages:
        out.append(message)
        if message.role == "tool":
            out[start:] = sorted(out[start:], key=lambda one: order.get(one.tool_call_id or "", len(order)))
            continue
        start = len(out)
        if message.tool_calls:
            order = {call.id: at for at, call in enumerate(message.tool_calls)}
    return out


def has_media(message: Message) -> bool:
    """Whether this is a result of a tool with something other than text."""
    return bool(_media(message))


def _media(message: Message) -> list[ContentPart]:
    if message.role != "tool" or not isinstance(message.content, list):
        return []
    return [part for part in message.content if part.type != "text"]


def named_media(messages: Sequence[Message]) -> frozenset[str]:
    """The types of the media in results of tools: image_url, input_audio, and file for one that is no text."""
    return frozenset(part.type for message in messages for part in _media(message) if _is_unreadable(part))


def without_media(messages: Sequence[Message], kinds: Set[str]) -> list[Message]:
    """The messages with a note in place of each part of these types in the results of tools."""
    return [_noted(message, kinds) if has_media(message) else message for message in messages]


_NOTES = {"image_url": "an image", "input_audio": "a sound", "file": "a document"}


def _is_unreadable(part: ContentPart) -> bool:
    text = part.type == "file" and is_text(media_type_of((part.file or {}).get("file_data")))
    return part.type in _NOTES and not text


def _noted(message: Message, kinds: Set[str]) -> Message:
    parts: list[ContentPart] = []
    for part in message.content or ():
        assert isinstance(part, ContentPart)
        if part.type in kinds and _is_unreadable(part):
            note = f"[The tool returned {_NOTES[part.type]}, which is left out: this model cannot read it.]"
            part = ContentPart(type="text", text=note)
        parts.append(part)
    return message.model_copy(update={"content": parts})
