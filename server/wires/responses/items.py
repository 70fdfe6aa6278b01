"""Translates the input items of a Responses request into chat messages. Source: OpenAI's API reference."""

from __future__ import annotations

from typing import Any

from backends.streams.sealing import decode_thinking
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from catalog.validation.wording import of_type
from server.wires.translation import Losses, named

_HOSTED = ("web_search_call", "code_interpreter_call")
"""Items of tools that a provider ran; a provider gets its own back, and the others read the text alone."""


def to_messages(items: str | list[Json], losses: Losses) -> list[Json]:
    """Translate ``input``. Consecutive items of the assistant become one message.

    Items of OpenAI's own services, and fields that no chat has, go to ``losses``. Raises :class:`InvalidRequest`
    for malformed items.
    """
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages: list[Json] = []
    for position, item in enumerate(items):
        with losses.refusing():
            _item(messages, item, f"input[{position}]", losses)
    return messages


def _item(messages: list[Json], item: Json, where: str, losses: Losses) -> None:
    match item.get("type", "message" if "role" in item else None):
        case "message":
            _message(messages, item, where, losses)
        case "function_call":
            _assistant(messages).setdefault("tool_calls", []).append(_call(item, where))
        case "custom_tool_call":
            custom = {"name": named(item, "name", where), "input": _text(item, "input", where)}
            call = {"id": named(item, "call_id", where), "type": "custom", "custom": custom}
            _assistant(messages).setdefault("tool_calls", []).append(call)
        case "function_call_output" | "custom_tool_call_output":
            call_id = named(item, "call_id", where)
            content = _content(item.get("output"), where, losses)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        case "reasoning":
            _reasoning(_assistant(messages), item, losses)
        case kind if kind in _HOSTED:
            _assistant(messages).setdefault("server_tool_calls", []).append(item)
        case "image_generation_call":
            _drawn(_assistant(messages), item, where)
        case kind:
            raise UnsupportedParameter(f"Items {of_type(kind)} are not supported.", param=where)


def _assistant(messages: list[Json]) -> Json:
    """The last message if it is the assistant's, else a new one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _message(messages: list[Json], item: Json, where: str, losses: Losses) -> None:
    role = _text(item, "role", where)
    content = _content(item.get("content"), where, losses)
    if item.get("phase"):
        losses.add("input.phase")
    last = messages[-1] if messages else {}
    if (
        role == "assistant"
        and last.get("role") == "assistant"
        and last["content"] is None
        and not last.get("tool_calls")
    ):
        last["content"] = content
    elif role in ("user", "system", "developer", "assistant"):
        messages.append({"role": role, "content": content})
    else:
        raise InvalidRequest(f"Unknown role {role[:80]!r}.", param=f"{where}.role")


def _call(item: Json, where: str) -> Json:
    function = {"name": named(item, "name", where), "arguments": _text(item, "arguments", where)}
    call: Json = {"id": named(item, "call_id", where), "type": "function", "function": function}
    if isinstance(item.get("extra_content"), dict):
        call["extra_content"] = item["extra_content"]
    return call


def _reasoning(message: Json, item: Json, losses: Losses) -> None:
    parts = [*(item.get("content") or ()), *(item.get("summary") or ())]
    text = "\n\n".join(
        part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)
    )
    if text:
        message["reasoning_content"] = message.get("reasoning_content", "") + text
    blocks = decode_thinking(item.get("encrypted_content"))
    if blocks:
        message["thinking_blocks"] = [*message.get("thinking_blocks", ()), *blocks]
    elif item.get("encrypted_content"):
        losses.add("input.encrypted_content")


def _drawn(message: Json, item: Json, where: str) -> None:
    """A picture that the model made is one of the message's ``images``."""
    picture = f"data:image/{item.get('output_format') or 'png'};base64,{_text(item, 'result', where)}"
    extra = {"extra_content": item["extra_content"]} if item.get("extra_content") else {}
    message.setdefault("images", []).append({"type": "image_url", "image_url": {"url": picture}, **extra})


def _content(content: Any, where: str, losses: Losses) -> str | list[Json]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest("An item's content must be a string or a list of parts.", param=where)
    parts = []
    for at, part in enumerate(content):
        with losses.refusing():
            parts.append(_part(part, f"{where}.content[{at}]"))
    return parts


def _part(part: Any, where: str) -> Json:
    if not isinstance(part, dict):
        raise InvalidRequest("A part of an item's content must be an object.", param=where)
    kind = part.get("type")
    match kind:
        case "input_text" | "output_text" | "text":
            made: Json = {"type": "text", "text": _text(part, "text", where)}
        case "refusal":
            made = {"type": "refusal", "refusal": _text(part, "refusal", where)}
        case "input_image" if part.get("image_url"):
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            made = {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
        case "input_audio":
            made = {"type": "input_audio", "input_audio": part.get("input_audio")}
        case "input_file" if part.get("file_data") or part.get("file_url"):
            names = ("file_data", "file_url", "filename")
            made = {"type": "file", "file": {name: part[name] for name in names if part.get(name)}}
        case "input_file" | "input_image":
            raise UnsupportedParameter("Uploaded files are not supported; send the data itself.", param=where)
        case _:
            raise UnsupportedParameter(f"A content part {of_type(kind)} is not known.", param=where)
    if isinstance(part.get("prompt_cache_breakpoint"), dict):
        made["cache_control"] = {"type": "ephemeral"}
    return made


def _text(item: Json, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"{where}.{name} must be a string.", param=f"{where}.{name}")
    return value
