"""Translates OpenAI's messages into Anthropic's system blocks and turns.

System and developer messages at the head become the system prompt. Later ones stay between the turns for models
that take them there, which is after a user's turn and before the model's or at the end; else they join the prompt.
Turns alternate: neighbours of one role are merged, and the results of tools are blocks of the user's turn that
follows the calls. Sources: Anthropic's Messages API reference, its page on mid-conversation system messages.
"""

from __future__ import annotations

from typing import Any

from backends.adapting.arguments import object_of
from backends.adapting.marks import citing
from backends.adapting.names import call_id
from backends.adapting.system import MOVED
from backends.anthropic.results import blocks_of
from backends.streams.chunks import unnumbered
from backends.translation import Dropped, name_foreign
from backends.wire.chat import ContentPart, Message
from backends.wire.media import (
    decoded_text,
    image_url,
    is_data_url,
    is_text,
    parts_of,
    read_data_url,
    text_of,
)
from backends.wire.seeing.videos import takes_no_videos
from catalog.errors import CapabilityMismatch, InvalidRequest, UnsupportedParameter
from catalog.types import Json

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def translate_messages(
    messages: list[Message], dropped: Dropped, *, system_turns: bool = True
) -> tuple[list[Json], list[Json]]:
    """``(system blocks, turns)``. A system message that has to move is reported as ``messages.system``.

    Raises :class:`InvalidRequest` for messages that Anthropic's API cannot hold, :class:`CapabilityMismatch`
    for media that no Claude model takes.
    """
    conversation = _Conversation(dropped, system_turns=system_turns)
    for message in messages:
        if message.role in ("system", "developer"):
            conversation.instruct(_system(message))
        elif message.role == "assistant":
            name_foreign(message, "anthropic", dropped, images=False)
            conversation.add("assistant", _assistant(message, dropped))
        elif message.role == "tool":
            conversation.add("user", [_tool_result(message, dropped)])
        elif message.role == "user":
            conversation.add("user", _cached(message, [_block(part, dropped) for part in parts_of(message)]))
        else:
            raise UnsupportedParameter(
                "Anthropic's API has no messages of the role 'function'; send 'tool' messages with tool_call_id.",
                param="messages",
            )
    conversation.end()
    if not conversation.turns:
        raise InvalidRequest("Anthropic's models need at least one message that is not system.", param="messages")
    return conversation.system, conversation.turns


def continues_tools_without_thinking(given: list[Json]) -> bool:
    """Whether the last turn answers tool calls that were made without signed thinking.

    Budgeted thinking cannot be switched on in the middle of such a loop; Anthropic refuses it.
    """
    turns = [turn for turn in given if turn["role"] != "system"]
    if len(turns) < 2 or turns[-1]["role"] != "user":
        return False
    answers = any(block["type"] == "tool_result" for block in turns[-1]["content"])
    return answers and turns[-2]["content"][0]["type"] not in ("thinking", "redacted_thinking")


class _Conversation:
    """Places turns, and the system messages between them (``system_turns``) or in the system prompt."""

    def __init__(self, dropped: Dropped, *, system_turns: bool) -> None:
        self.system: list[Json] = []
        self.turns: list[Json] = []
        self._held: list[Json] = []  # system blocks that wait for the end of the user's turn
        self._dropped = dropped
        self._system_turns = system_turns

    def instruct(self, blocks: list[Json]) -> None:
        """Place a system message."""
        if not blocks or not self.turns:
            self.system += blocks
            return
        if not self._system_turns or not self._is_users():
            self._dropped.add(MOVED)
        (self._held if self._system_turns else self.system).extend(blocks)

    def add(self, role: str, blocks: list[Json]) -> None:
        """Add blocks to the last turn if it has the same role, else as a turn of their own."""
        if not blocks:
            return
        if self._held and role == "user":
            self._dropped.add(MOVED)
        elif self._held and self._is_users():
            self._place()
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += blocks
        else:
            self.turns.append({"role": role, "content": blocks})

    def end(self) -> None:
        """Place the system messages that are left."""
        if self._held and self._is_users():
            self._place()
        self.system += self._held

    def _is_users(self) -> bool:
        return bool(self.turns) and self.turns[-1]["role"] == "user"

    def _place(self) -> None:
        self.turns.append({"role": "system", "content": self._held})
        self._held = []


def _system(message: Message) -> list[Json]:
    if isinstance(message.content, list):
        text_of(message)
        return _cached(message, [_with_cache({"type": "text", "text": p.text}, p) for p in parts_of(message)])
    return _cached(message, [{"type": "text", "text": message.content}] if message.content else [])


def _assistant(message: Message, dropped: Dropped) -> list[Json]:
    extra = message.model_extra or {}
    kept = extra.get("thinking_blocks")
    blocks = [unnumbered(block) for block in kept if _is_thinking(block)] if isinstance(kept, list) else []
    if not blocks and (extra.get("reasoning_content") or kept):
        dropped.add("messages.reasoning_content")  # unsigned, or another provider's
    blocks += blocks_of(extra.get("server_tool_calls"))
    for part in parts_of(message):
        if part.type not in ("text", "refusal"):
            raise InvalidRequest(f"An assistant message cannot hold {part.type!r}.", param="messages")
        text = part.text or part.refusal
        if text and not text.isspace():  # Anthropic refuses empty text
            blocks.append(_with_cache({"type": "text", "text": text}, part))
    refusal = extra.get("refusal")
    if isinstance(refusal, str) and refusal:
        blocks.append({"type": "text", "text": refusal})
    for call in message.tool_calls or ():
        if call.function is None:
            raise UnsupportedParameter("Anthropic's API has no custom tool calls.", param="messages")
        blocks.append(
            {
                "type": "tool_use",
                "id": call_id(call.id),
                "name": call.function.name,
                "input": object_of(call.function.arguments),
            }
        )
    return _cached(message, blocks)


def _is_thinking(block: Any) -> bool:
    if not isinstance(block, dict):
        return False
    if block.get("type") == "thinking":
        return isinstance(block.get("thinking"), str) and isinstance(block.get("signature"), str)
    return block.get("type") == "redacted_thinking" and isinstance(block.get("data"), str)


def _tool_result(message: Message, dropped: Dropped) -> Json:
    if not message.tool_call_id:
        raise InvalidRequest("A tool message needs its tool_call_id.", param="messages")
    block: Json = {"type": "tool_result", "tool_use_id": call_id(message.tool_call_id)}
    content = [_block(part, dropped) for part in parts_of(message)]
    if content:
        block["content"] = content
    if (message.model_extra or {}).get("is_error") is True:
        block["is_error"] = True
    return _cached(message, [block])[0]


def _block(part: ContentPart, dropped: Dropped) -> Json:
    match part.type:
        case "text":
            block: Json = {"type": "text", "text": part.text}
        case "image_url":
            block = {"type": "image", "source": _image_source(image_url(part))}
            if (part.image_url or {}).get("detail") not in (None, "auto"):
                dropped.add("messages.image_url.detail")
        case "file":
            block = {**_document(part.file or {}), **citing(part)}
        case "input_audio":
            raise CapabilityMismatch("Anthropic's models take no audio.", param="messages")
        case "video_url":
            raise takes_no_videos("Anthropic's API")
        case _:
            raise InvalidRequest(f"Unknown content part {part.type!r}.", param="messages")
    return _with_cache(block, part)


def _image_source(url: str) -> Json:
    if not is_data_url(url):
        return {"type": "url", "url": url}
    media_type, data = read_data_url(url)
    if media_type not in IMAGE_TYPES:
        raise CapabilityMismatch(f"Anthropic's models take no {media_type} images.", param="messages")
    return {"type": "base64", "media_type": media_type, "data": data}


def _document(file: Json) -> Json:
    data, url, name = file.get("file_data"), file.get("file_url"), file.get("filename")
    if isinstance(url, str) and url:
        source: Json = {"type": "url", "url": url}
    elif isinstance(data, str) and data:
        media_type, encoded = read_data_url(data)
        if media_type in IMAGE_TYPES:
            return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": encoded}}
        if is_text(media_type):
            source = {"type": "text", "media_type": "text/plain", "data": decoded_text(encoded)}
        elif media_type == "application/pdf":
            source = {"type": "base64", "media_type": media_type, "data": encoded}
        else:
            raise CapabilityMismatch(
                f"Anthropic's models take PDF, texts and pictures as files, not {media_type}.", param="messages"
            )
    else:
        raise UnsupportedParameter(
            "A file part needs file_data (a data URL) or file_url; uploaded files are not kept here.",
            param="messages",
        )
    return {"type": "document", "source": source, **({"title": name} if isinstance(name, str) and name else {})}


def lost_ttls(message: Message) -> bool:
    """Whether a cache breakpoint is to live longer than Anthropic's hour."""
    points = (
        (part.model_extra or {}).get("prompt_cache_breakpoint")
        for part in (message.content if isinstance(message.content, list) else ())
    )
    return any(isinstance(point, dict) and point.get("ttl") == "12h" for point in points)


def _with_cache(block: Json, part: ContentPart) -> Json:
    extra = part.model_extra or {}
    mark, point = extra.get("cache_control"), extra.get("prompt_cache_breakpoint")
    if mark is None and isinstance(point, dict):  # OpenAI's, which lives for 30 minutes or 12 hours
        mark = {"type": "ephemeral", "ttl": "1h"}
    return {**block, "cache_control": mark} if isinstance(mark, dict) else block


def _cached(message: Message, blocks: list[Json]) -> list[Json]:
    """The blocks, with the message's own cache breakpoint on the last one unless that is thinking."""
    mark = (message.model_extra or {}).get("cache_control")
    if isinstance(mark, dict) and blocks and "thinking" not in blocks[-1]["type"]:
        blocks[-1] = {**blocks[-1], "cache_control": mark}
    return blocks
