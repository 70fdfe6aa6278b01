"""Translates Anthropic's messages and content blocks into chat messages. Source: Anthropic's API reference."""

from __future__ import annotations

from typing import Any

import orjson

from backends.streams.sealing import decode_thinking
from backends.wire.messages import InputMessage
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from server.wires.translation import Losses, named


def to_messages(system: str | list[Json] | None, messages: list[InputMessage], losses: Losses) -> list[Json]:
    """Translate a conversation. The tool results of a user's turn come first, each as a message.

    Fields that no chat has, and blocks of Anthropic's own services, go to ``losses``. Raises
    :class:`InvalidRequest` for malformed blocks.
    """
    out: list[Json] = []
    if system:
        out.append({"role": "system", "content": _parts(system, "system", losses)})
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        if message.role == "assistant":
            out.append(_assistant(message.content, where, losses))
        elif message.role == "system":
            out.append({"role": "system", "content": _parts(message.content, where, losses)})
        else:
            out += _user(message.content, where, losses)
    return out


def _user(content: str | list[Json], where: str, losses: Losses) -> list[Json]:
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    out: list[Json] = []
    rest: list[Json] = []
    for block in content:
        if block.get("type") != "tool_result":
            rest.append(block)
            continue
        result: Json = {"role": "tool", "tool_call_id": named(block, "tool_use_id", where)}
        result["content"] = _parts(block.get("content") or "", where, losses)
        if block.get("is_error") is True:
            result["is_error"] = True
        _name_lost(block, losses)
        out.append(_with_cache_control(result, block))
    if rest:
        out.append({"role": "user", "content": _parts(rest, where, losses)})
    return out


def _assistant(content: str | list[Json], where: str, losses: Losses) -> Json:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    message: Json = {"role": "assistant", "content": None}
    texts: list[Json] = []
    for block in content:
        match block.get("type"):
            case "text":
                texts += _blocks([block], where, losses)
            case "thinking" | "redacted_thinking" if sealed := decode_thinking(
                block.get("signature") or block.get("data")
            ):
                message["thinking_blocks"] = [*message.get("thinking_blocks", ()), *sealed]
            case "thinking" if block.get("signature"):
                _text(block, "thinking", where)
                losses.add("messages.thinking")
            case "thinking":
                message["reasoning_content"] = message.get("reasoning_content", "") + _text(
                    block, "thinking", where
                )
            case "redacted_thinking":
                losses.add("messages.thinking")
            case "tool_use":
                message.setdefault("tool_calls", []).append(_call(block, where))
                _name_lost(block, losses)
            case "server_tool_use" if block.get("name") in ("web_search", "code_execution"):
                _own_call(message, block, losses)
            case "web_search_tool_result" | "code_execution_tool_result":
                losses.add("messages.server_tool_use")
            case kind:
                with losses.refusing():
                    raise _unsupported(kind, where)
    if texts:
        message["content"] = texts
    return message


def _own_call(message: Json, block: Json, losses: Losses) -> None:
    """Keep a call that another provider made itself, for that one; to others the text of the answer is enough."""
    losses.add("messages.server_tool_use")
    if isinstance(block.get("extra_content"), dict):
        item = {"id": block.get("id"), "extra_content": block["extra_content"]}
        message.setdefault("server_tool_calls", []).append(item)


def _call(block: Json, where: str) -> Json:
    given = block.get("input")
    if not isinstance(given, dict):
        raise InvalidRequest("The input of a tool_use block must be an object.", param=where)
    function = {"name": named(block, "name", where), "arguments": orjson.dumps(given).decode()}
    call: Json = {"id": named(block, "id", where), "type": "function", "function": function}
    if isinstance(block.get("extra_content"), dict):
        call["extra_content"] = block["extra_content"]
    return call


def _parts(content: Any, where: str, losses: Losses) -> str | list[Json]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise InvalidRequest("Content must be a string or a list of blocks.", param=where)
    return _blocks(content, where, losses)


def _blocks(blocks: list[Json], where: str, losses: Losses) -> list[Json]:
    parts = []
    for block in blocks:
        with losses.refusing():
            parts.append(_with_cache_control(_part(block, where, losses), block))
            _name_lost(block, losses)
    return parts


def _part(block: Json, where: str, losses: Losses) -> Json:
    source = block.get("source")
    match block.get("type"):
        case "text":
            return {"type": "text", "text": _text(block, "text", where)}
        case "image" if isinstance(source, dict):
            return {"type": "image_url", "image_url": {"url": _url(source, where)}}
        case "document" if isinstance(source, dict):
            return _document(block, source, where, losses)
        case kind:
            raise _unsupported(kind, where)


def _unsupported(kind: Any, where: str) -> UnsupportedParameter:
    return UnsupportedParameter(
        f"Content blocks of type {str(kind)[:80]!r} are not supported by this model.", param=where
    )


_HELD = frozenset({"type", "text", "source", "title", "cache_control"})
_HELD_BY = {
    "tool_use": frozenset({"type", "id", "name", "input", "caller", "extra_content", "cache_control"}),
    "tool_result": frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"}),
}


def _name_lost(block: Json, losses: Losses) -> None:
    """Name the block's fields that its translation lacks, unless they say nothing."""
    for name in block.keys() - _HELD_BY.get(block["type"], _HELD):
        if block[name] not in (None, [], "", {"enabled": False}):
            losses.add(f"messages.content.{name}")


def _url(source: Json, where: str) -> str:
    match source.get("type"):
        case "base64":
            return f"data:{_text(source, 'media_type', where)};base64,{_text(source, 'data', where)}"
        case "url":
            return _text(source, "url", where)
        case _:
            raise UnsupportedParameter("Uploaded files are not supported; send the data itself.", param=where)


def _document(block: Json, source: Json, where: str, losses: Losses) -> Json:
    if source.get("type") in ("text", "content") and block.get("title"):
        losses.add("messages.content.title")
    if source.get("type") == "text":
        return {"type": "text", "text": _text(source, "data", where)}
    if source.get("type") == "content":
        inner = _parts(source.get("content"), where, losses)
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
