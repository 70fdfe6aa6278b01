"""Translates OpenAI's messages into Anthropic's system blocks and turns.

System and developer messages, wherever they stand, become the system prompt, in order, as in Anthropic's own
OpenAI-compatible endpoint. Turns alternate: neighbours of one role are merged, and the results of
tools are blocks of the user's turn that follows the calls. Source: Anthropic's Messages API reference.
"""

from __future__ import annotations

from typing import Any

from backends.anthropic.results import blocks_of
from backends.translation import Dropped
from backends.wire.chat import ContentPart, Message
from backends.wire.media import arguments_of, image_url, is_data_url, parts_of, read_data_url, text_of
from catalog.errors import CapabilityMismatch, InvalidRequest, UnsupportedParameter
from catalog.types import Json

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def translate_messages(messages: list[Message], dropped: Dropped) -> tuple[list[Json], list[Json]]:
    """``(system blocks, turns)``.

    Raises :class:`InvalidRequest` for messages that Anthropic's API cannot hold, :class:`CapabilityMismatch`
    for media that no Claude model takes.
    """
    system: list[Json] = []
    turns: list[Json] = []
    for message in messages:
        if message.role in ("system", "developer"):
            system += _system(message)
        elif message.role == "assistant":
            _append(turns, "assistant", _assistant(message))
        elif message.role == "tool":
            _append(turns, "user", [_tool_result(message, dropped)])
        elif message.role == "user":
            _append(turns, "user", _cached(message, [_block(part, dropped) for part in parts_of(message)]))
        else:
            raise UnsupportedParameter(
                "Anthropic's API has no messages of the role 'function'; send 'tool' messages with tool_call_id.",
                param="messages",
            )
    if not turns:
        raise InvalidRequest("Anthropic's models need at least one message that is not system.", param="messages")
    return system, turns


def continues_tools_without_thinking(turns: list[Json]) -> bool:
    """Whether the last turn answers tool calls that were made without signed thinking.

    Budgeted thinking cannot be switched on in the middle of such a loop; Anthropic refuses it.
    """
    if len(turns) < 2 or turns[-1]["role"] != "user":
        return False
    answers = any(block["type"] == "tool_result" for block in turns[-1]["content"])
    return answers and turns[-2]["content"][0]["type"] not in ("thinking", "redacted_thinking")


def _append(turns: list[Json], role: str, blocks: list[Json]) -> None:
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _system(message: Message) -> list[Json]:
    if isinstance(message.content, list):
        text_of(message)
        return _cached(message, [_with_cache({"type": "text", "text": p.text}, p) for p in parts_of(message)])
    return _cached(message, [{"type": "text", "text": message.content}] if message.content else [])


def _assistant(message: Message) -> list[Json]:
    extra = message.model_extra or {}
    kept = extra.get("thinking_blocks")
    blocks = [block for block in kept if _is_thinking(block)] if isinstance(kept, list) else []
    blocks += blocks_of(extra.get("server_tool_calls"))
    for part in parts_of(message):
        if part.type not in ("text", "refusal"):
            raise InvalidRequest(f"An assistant message cannot hold {part.type!r}.", param="messages")
        if text := part.text or part.refusal:  # Anthropic refuses empty text
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
                "id": call.id,
                "name": call.function.name,
                "input": arguments_of(call.function),
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
    block: Json = {"type": "tool_result", "tool_use_id": message.tool_call_id}
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
            block = _document(part.file or {})
        case "input_audio":
            raise CapabilityMismatch("Anthropic's models take no audio.", param="messages")
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
        if media_type != "application/pdf":
            raise CapabilityMismatch(
                f"Anthropic's models take PDF documents, not {media_type}; send text as a text part.",
                param="messages",
            )
        source = {"type": "base64", "media_type": media_type, "data": encoded}
    else:
        raise UnsupportedParameter(
            "A file part needs file_data (a data URL) or file_url; uploaded files are not kept here.",
            param="messages",
        )
    return {"type": "document", "source": source, **({"title": name} if isinstance(name, str) and name else {})}


def _with_cache(block: Json, part: ContentPart) -> Json:
    mark = (part.model_extra or {}).get("cache_control")
    return {**block, "cache_control": mark} if isinstance(mark, dict) else block


def _cached(message: Message, blocks: list[Json]) -> list[Json]:
    """The blocks, with the message's own cache breakpoint on the last one unless that is thinking."""
    mark = (message.model_extra or {}).get("cache_control")
    if isinstance(mark, dict) and blocks and "thinking" not in blocks[-1]["type"]:
        blocks[-1] = {**blocks[-1], "cache_control": mark}
    return blocks
