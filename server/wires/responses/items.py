"""Translates the input items of a Responses request into chat messages. Source: OpenAI's API reference."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson

from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

_SEAL = "rh1."
_HOSTED = frozenset({"web_search_call", "code_interpreter_call"})
"""Items of tools that a provider ran; a provider gets its own back, and the others read the text alone."""


def encode_thinking(thinking_blocks: list[Json]) -> str:
    """Encode a provider's signed thinking blocks as the opaque ``encrypted_content`` of a reasoning item."""
    return _SEAL + base64.urlsafe_b64encode(orjson.dumps(thinking_blocks)).decode()


def decode_thinking(text: Any) -> list[Json]:
    """Decode the blocks of :func:`encode_thinking`; an empty list for any other ``encrypted_content``."""
    if not isinstance(text, str) or not text.startswith(_SEAL):
        return []
    try:
        blocks = orjson.loads(base64.urlsafe_b64decode(text[len(_SEAL) :]))
    except (binascii.Error, ValueError):
        return []
    return [block for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []


def to_messages(items: str | list[Json]) -> list[Json]:
    """Translate ``input``. Consecutive items of the assistant become one message.

    Raises :class:`UnsupportedParameter` for items of OpenAI's own services, :class:`InvalidRequest` for malformed
    items.
    """
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages: list[Json] = []
    for position, item in enumerate(items):
        where = f"input[{position}]"
        match item.get("type", "message" if "role" in item else None):
            case "message":
                _message(messages, item, where)
            case "function_call":
                _assistant(messages).setdefault("tool_calls", []).append(_call(item, where))
            case "function_call_output":
                call_id = _text(item, "call_id", where)
                messages.append(
                    {"role": "tool", "tool_call_id": call_id, "content": _content(item.get("output"), where)}
                )
            case "reasoning":
                _reasoning(_assistant(messages), item)
            case kind if kind in _HOSTED:
                _assistant(messages).setdefault("server_tool_calls", []).append(item)
            case "image_generation_call":
                _drawn(_assistant(messages), item, where)
            case kind:
                raise UnsupportedParameter(f"Items of type {str(kind)[:80]!r} are not supported.", param=where)
    return messages


def _assistant(messages: list[Json]) -> Json:
    """The last message if it is the assistant's, else a new one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _message(messages: list[Json], item: Json, where: str) -> None:
    role = _text(item, "role", where)
    content = _content(item.get("content"), where)
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
    function = {"name": _text(item, "name", where), "arguments": _text(item, "arguments", where)}
    call: Json = {"id": _text(item, "call_id", where), "type": "function", "function": function}
    if isinstance(item.get("extra_content"), dict):
        call["extra_content"] = item["extra_content"]
    return call


def _reasoning(message: Json, item: Json) -> None:
    parts = [*(item.get("content") or ()), *(item.get("summary") or ())]
    text = "\n\n".join(
        part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)
    )
    if text:
        message["reasoning_content"] = message.get("reasoning_content", "") + text
    blocks = decode_thinking(item.get("encrypted_content"))
    if blocks:
        message["thinking_blocks"] = [*message.get("thinking_blocks", ()), *blocks]


def _drawn(message: Json, item: Json, where: str) -> None:
    """A picture that the model made is one of the message's ``images``."""
    picture = f"data:image/{item.get('output_format') or 'png'};base64,{_text(item, 'result', where)}"
    extra = {"extra_content": item["extra_content"]} if item.get("extra_content") else {}
    message.setdefault("images", []).append({"type": "image_url", "image_url": {"url": picture}, **extra})


def _content(content: Any, where: str) -> str | list[Json]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest("An item's content must be a string or a list of parts.", param=where)
    return [_part(part, f"{where}.content[{at}]") for at, part in enumerate(content)]


def _part(part: Any, where: str) -> Json:
    kind = part.get("type") if isinstance(part, dict) else None
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
            raise InvalidRequest(f"Unknown content part {str(kind)[:80]!r}.", param=where)
    if isinstance(part.get("prompt_cache_breakpoint"), dict):
        made["cache_control"] = {"type": "ephemeral"}
    return made


def _text(item: Json, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"{where}.{name} must be a string.", param=f"{where}.{name}")
    return value
