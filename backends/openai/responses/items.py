"""Translates chat messages into the input items of a response. Source: OpenAI's API reference and SDK types.

Reasoning items come back in a message's ``thinking_blocks`` (:mod:`backends.openai.responses.reasoning`) and stand
before the call or the text that followed them.
"""

from __future__ import annotations

from typing import Any

from backends.adapting.names import OPENAI, call_id
from backends.base import Upstream
from backends.openai.responses.reasoning import items_of
from backends.translation import Dropped
from backends.wire.seeing.videos import takes_no_videos
from catalog.errors import CapabilityMismatch, InvalidRequest, UnsupportedParameter
from catalog.types import Json

_AUDIO = "OpenAI's Responses API takes no audio; transcribe it first with POST /v1/audio/transcriptions."


def to_items(messages: list[Json], upstream: Upstream, dropped: Dropped) -> list[Json]:
    """The input items of a chat's messages, in their order.

    Raises CapabilityMismatch for audio, InvalidRequest or UnsupportedParameter for what no item holds.
    """
    items: list[Json] = []
    custom: set[str] = set()
    for message in messages:
        if message.get("name"):
            dropped.add("messages.name")
        match message["role"]:
            case "assistant":
                items += _assistant(message, upstream, custom, dropped)
            case "tool":
                items.append(_result(message, custom))
            case "function":
                raise UnsupportedParameter(
                    "OpenAI's Responses API has no messages of the role 'function'; send 'tool' messages with "
                    "tool_call_id.",
                    param="messages",
                )
            case role:
                items.append({"type": "message", "role": role, "content": _content(message.get("content"))})
    return items


def _assistant(message: Json, upstream: Upstream, custom: set[str], dropped: Dropped) -> list[Json]:
    if message.get("audio"):
        raise CapabilityMismatch(_AUDIO, param="messages")
    reasoning = items_of(message, upstream, dropped)
    calls = [_call(call, custom) for call in message.get("tool_calls") or ()]
    ids = {call["call_id"] for call in calls}
    items = [item for before, item in reasoning if before not in ids]
    if text := _spoken(message):
        items.append({"type": "message", "role": "assistant", "content": text})
    for call in calls:
        items += [item for before, item in reasoning if before == call["call_id"]]
        items.append(call)
    return items


def _spoken(message: Json) -> str:
    """The text of an assistant's message, a refusal included: its parts are one text in the model's context."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    texts = []
    for part in parts:
        if part["type"] not in ("text", "refusal"):
            raise InvalidRequest(f"An assistant message cannot hold {part['type'][:80]!r}.", param="messages")
        texts.append(part.get(part["type"]) or "")
    refusal = message.get("refusal")
    return "".join([*texts, refusal if isinstance(refusal, str) else ""])


def _call(call: Json, custom: set[str]) -> Json:
    if call.get("type") == "custom":
        made = call.get("custom")
        if not isinstance(made, dict) or not isinstance(made.get("name"), str):
            raise InvalidRequest("A custom tool call needs custom.name and custom.input.", param="messages")
        custom.add(call["id"])
        given = made.get("input") or ""
        return {"type": "custom_tool_call", "call_id": _id(call["id"]), "name": made["name"], "input": given}
    function = call.get("function")
    if not isinstance(function, dict):
        raise InvalidRequest("A function tool call needs its function.", param="messages")
    named = {"name": function["name"], "arguments": function["arguments"]}
    return {"type": "function_call", "call_id": _id(call["id"]), **named}


def _result(message: Json, custom: set[str]) -> Json:
    answered = message.get("tool_call_id")
    if not answered:
        raise InvalidRequest("A tool message needs its tool_call_id.", param="messages")
    kind = "custom_tool_call_output" if answered in custom else "function_call_output"
    return {"type": kind, "call_id": _id(answered), "output": _content(message.get("content"))}


def _id(given: str) -> str:
    """OpenAI takes ids of calls of 64 characters at most."""
    return given if len(given) <= OPENAI.longest else call_id(given, OPENAI)


def _content(content: Any) -> str | list[Json]:
    return [_part(part) for part in content] if isinstance(content, list) else (content or "")


def _part(part: Json) -> Json:
    match part["type"]:
        case "text" | "refusal" as kind:
            made: Json = {"type": "input_text", "text": part.get(kind) or ""}
        case "image_url":
            made = _image(part.get("image_url") or {})
        case "file":
            made = _file(part.get("file") or {})
        case "input_audio":
            raise CapabilityMismatch(_AUDIO, param="messages")
        case "video_url":
            raise takes_no_videos("The Responses API")
        case kind:
            raise InvalidRequest(f"Unknown content part {kind[:80]!r}.", param="messages")
    mark = part.get("prompt_cache_breakpoint")
    return {**made, "prompt_cache_breakpoint": mark} if isinstance(mark, dict) else made


def _image(image: Json) -> Json:
    url = image.get("url")
    if not isinstance(url, str) or not url:
        raise InvalidRequest("An image_url part needs image_url.url.", param="messages")
    return {"type": "input_image", "image_url": url, "detail": image.get("detail") or "auto"}


def _file(file: Json) -> Json:
    named = {name: file[name] for name in ("file_data", "file_id", "file_url", "filename") if file.get(name)}
    if named.keys() <= {"filename"}:
        raise InvalidRequest("A file part needs file_data, file_id or file_url.", param="messages")
    return {"type": "input_file", **named}
