"""Translates Anthropic's messages and content blocks into chat messages. Source: Anthropic's API reference."""

from __future__ import annotations

from typing import Any

import orjson

from backends.wire.messages import InputMessage
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json


def to_messages(system: str | list[Json] | None, messages: list[InputMessage]) -> list[Json]:
    """Translate a conversation. The tool results of a user's turn come first, each as a message.

    Raises :class:`UnsupportedParameter` for blocks of Anthropic's own services, :class:`InvalidRequest` for
    malformed blocks.
    """
    out: list[Json] = []
    if system:
        out.append({"role": "system", "content": _parts(system, "system")})
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        if message.role == "assistant":
            out.append(_assistant(message.content, where))
        elif message.role == "system":
            out.append({"role": "system", "content": _parts(message.content, where)})
        else:
            out += _user(message.content, where)
    return out


def _user(content: str | list[Json], where: str) -> list[Json]:
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    out: list[Json] = []
    rest: list[Json] = []
    for block in content:
        if block.get("type") != "tool_result":
            rest.append(block)
            continue
        result: Json = {"role": "tool", "tool_call_id": _text(block, "tool_use_id", where)}
        result["content"] = _parts(block.get("content") or "", where)
        if block.get("is_error") is True:
            result["is_error"] = True
        out.append(_with_cache_control(result, block))
    if rest:
        out.append({"role": "user", "content": _parts(rest, where)})
    return out


def _assistant(content: str | list[Json], where: str) -> Json:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    message: Json = {"role": "assistant", "content": None}
    texts: list[Json] = []
    for block in content:
        match block.get("type"):
            case "text":
                texts.append(_with_cache_control(_part(block, where), block))
            case "thinking":
                text = _text(block, "thinking", where)
                message["reasoning_content"] = message.get("reasoning_content", "") + text
                message.setdefault("thinking_blocks", []).append(block)
            case "redacted_thinking":
                message.setdefault("thinking_blocks", []).append(block)
            case "tool_use":
                message.setdefault("tool_calls", []).append(_call(block, where))
            case kind:
                raise UnsupportedParameter(
                    f"Content blocks of type {str(kind)[:80]!r} are not supported.", param=where
                )
    if texts:
        message["content"] = texts
    return message


def _call(block: Json, where: str) -> Json:
    given = block.get("input")
    if not isinstance(given, dict):
        raise InvalidRequest("The input of a tool_use block must be an object.", param=where)
    function = {"name": _text(block, "name", where), "arguments": orjson.dumps(given).decode()}
    call: Json = {"id": _text(block, "id", where), "type": "function", "function": function}
    if isinstance(block.get("extra_content"), dict):
        call["extra_content"] = block["extra_content"]
    return call


def _parts(content: Any, where: str) -> str | list[Json]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise InvalidRequest("Content must be a string or a list of blocks.", param=where)
    return [_with_cache_control(_part(block, where), block) for block in content]


def _part(block: Json, where: str) -> Json:
    source = block.get("source")
    match block.get("type"):
        case "text":
            return {"type": "text", "text": _text(block, "text", where)}
        case "image" if isinstance(source, dict):
            return {"type": "image_url", "image_url": {"url": _url(source, where)}}
        case "document" if isinstance(source, dict):
            return _document(block, source, where)
        case kind:
            raise UnsupportedParameter(
                f"Content blocks of type {str(kind)[:80]!r} are not supported.", param=where
            )


def _url(source: Json, where: str) -> str:
    match source.get("type"):
        case "base64":
            return f"data:{_text(source, 'media_type', where)};base64,{_text(source, 'data', where)}"
        case "url":
            return _text(source, "url", where)
        case _:
            raise UnsupportedParameter("Uploaded files are not supported; send the data itself.", param=where)


def _document(block: Json, source: Json, where: str) -> Json:
    if source.get("type") == "text":
        return {"type": "text", "text": _text(source, "data", where)}
    if source.get("type") == "content":
        inner = _parts(source.get("content"), where)
        texts = [inner] if isinstance(inner, str) else [part.get("text") for part in inner]
        if not all(isinstance(text, str) for text in texts):
            raise UnsupportedParameter("The blocks of a document must be text.", param=where)
        return {"type": "text", "text": "\n\n".join(map(str, texts))}
    name = {"filename": block["title"]} if isinstance(block.get("title"), str) else {}
    key = "file_url" if source.get("type") == "url" else "file_data"
    return {"type": "file", "file": {key: _url(source, where), **name}}


def _with_cache_control(made: Json, block: Json) -> Json:
    """Copy a block's cache breakpoint, if it has one."""
    mark = block.get("cache_control")
    return {**made, "cache_control": mark} if isinstance(mark, dict) else made


def _text(block: Json, name: str, where: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"{where}: {name!r} must be a string.", param=where)
    return value
