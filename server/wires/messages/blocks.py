"""Translates Anthropic's messages and content blocks into chat messages. Source: Anthropic's API reference."""

from __future__ import annotations

from typing import Any

import orjson

from backends.adapting.arguments import wrapped
from backends.streams.sealing import decode_thinking
from backends.wire.messages import InputMessage
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from catalog.validation.wording import of_type
from server.wires.messages.client_tools import BETWEEN
from server.wires.translation import Losses, named


def to_messages(system: str | list[Json] | None, messages: list[InputMessage], losses: Losses) -> list[Json]:
    """Translate a conversation. The tool results of a user's turn come first, each as a message.

    Fields that no chat has, and blocks of Anthropic's own services, go to ``losses``. Raises
    :class:`InvalidRequest` for malformed blocks.
    """
    out: list[Json] = []
    if system:
        out.append({"role": "system", "content": _parts(system, "system", losses)})
    last = max((at for at, message in enumerate(messages) if message.role == "user"), default=-1)
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        extra = message.model_extra or {}
        _output_config(message, where, losses)
        if message.role == "assistant":
            out += _assistant(message.content, where, losses)
        elif message.role == "user":
            out += _user(message.content, where, losses)
        elif extra.get("clear_at") != "next_user_message" or position > last:
            out += _system(message.content, where, losses)
        losses.add(*(f"messages.{name}" for name in extra if name != "clear_at" and extra[name] is not None))
    return out


def _output_config(message: InputMessage, where: str, losses: Losses) -> None:
    """Name what a message's own configuration says beside the effort. Raises InvalidRequest for a form in it."""
    if message.output_config is None:
        return
    if message.output_config.format is not None:
        field = f"{where}.output_config.format"
        raise InvalidRequest(f"{field}: a form is for the whole answer; set 'output_config.format'.", param=field)
    extra = message.output_config.model_extra or {}
    losses.add(*(f"messages.output_config.{name}" for name, value in extra.items() if value is not None))


def _system(content: str | list[Json], where: str, losses: Losses) -> list[Json]:
    """A system message; changes of tools in it are read by :mod:`server.wires.messages.tools`."""
    if not isinstance(content, str):
        content = [block for block in content if block.get("type") not in _TOOL_CHANGES]
    return [{"role": "system", "content": _parts(content, where, losses)}] if content else []


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
        result["content"] = _parts(block.get("content") or "", where, losses) or ""
        if block.get("is_error") is True:
            result["is_error"] = True
        _name_lost(block, losses)
        out.append(_with_cache_control(result, block))
    if rest and (parts := _parts(rest, where, losses)):
        out.append({"role": "user", "content": parts})
    return out


def _assistant(content: str | list[Json], where: str, losses: Losses) -> list[Json]:
    """The assistant's message, after a user's with the summary of what was before it."""
    if isinstance(content, str):
        return [{"role": "assistant", "content": content}]
    before: list[Json] = []
    message: Json = {"role": "assistant", "content": None}
    texts: list[Json] = []
    for block in content:
        match block.get("type"):
            case "text":
                texts += _blocks([block], where, losses)
            case "thinking" | "redacted_thinking":
                _thought(message, block, where, losses)
            case "tool_use":
                message.setdefault("tool_calls", []).append(_call(block, where, losses))
                _name_lost(block, losses)
            case "compaction":
                summary = block.get("content")
                if isinstance(summary, str) and summary:
                    before.append({"role": "user", "content": f"{_SUMMARY}\n\n{summary}"})
            case "server_tool_use":
                _own_call(message, block, losses)
            case str(kind) if kind.endswith("_tool_result") or kind.startswith("mcp_tool_"):
                losses.add("messages.server_tool_use")
            case kind if kind not in _NOT_SHOWN:
                with losses.refusing():
                    raise _unsupported(kind, where)
    if texts:
        message["content"] = texts
    return [*before, message] if len(message) > _EMPTY or texts else before


_SUMMARY = "Summary of the conversation so far:"
_EMPTY = 2
"""Fields of a message without content."""
_TOOL_CHANGES = ("tool_addition", "tool_removal")
_NOT_SHOWN = ("fallback",)
"""Blocks that Anthropic itself does not show to a model: a fallback tells of a change of models."""


def _thought(message: Json, block: Json, where: str, losses: Losses) -> None:
    """Keep thinking in the field of the provider that it came from; Anthropic's is for Anthropic alone."""
    if sealed := decode_thinking(block.get("signature") or block.get("data")):
        message["thinking_blocks"] = [*message.get("thinking_blocks", ()), *sealed]
    elif block.get("type") == "redacted_thinking":
        losses.add("messages.thinking")
    elif block.get("signature"):
        _text(block, "thinking", where)
        losses.add("messages.thinking")
    else:
        message["reasoning_content"] = message.get("reasoning_content", "") + _text(block, "thinking", where)


def _own_call(message: Json, block: Json, losses: Losses) -> None:
    """Keep a call that another provider made itself, for that one; to others the text of the answer is enough."""
    losses.add("messages.server_tool_use")
    if isinstance(block.get("extra_content"), dict):
        item = {"id": block.get("id"), "extra_content": block["extra_content"]}
        message.setdefault("server_tool_calls", []).append(item)


def _call(block: Json, where: str, losses: Losses) -> Json:
    if "input" not in block:
        raise InvalidRequest("A tool_use block needs its input, an object.", param=where)
    given = block["input"]
    if not isinstance(given, dict):  # a model's broken call, which a client keeps as it came
        given = wrapped(given)
        losses.add("messages.content.input")
    name = named(block, "name", where)
    if isinstance(block.get("toolset_name"), str):
        name = f"{block['toolset_name']}{BETWEEN}{name}"
    function = {"name": name, "arguments": orjson.dumps(given).decode()}
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
            if (part := _part(block, where, losses)) is not None:
                parts.append(_with_cache_control(part, block))
            _name_lost(block, losses)
    return parts


def _part(block: Json, where: str, losses: Losses) -> Json | None:
    """The part of a chat's message for a block; None for one without."""
    source = block.get("source")
    match block.get("type"):
        case "text":
            return {"type": "text", "text": _text(block, "text", where)}
        case "image" if isinstance(source, dict):
            return {"type": "image_url", "image_url": {"url": _url(source, where)}}
        case "document" if isinstance(source, dict):
            return _document(block, source, where, losses)
        case "search_result":
            return {"type": "text", "text": _search_result(block, where, losses)}
        case "tool_reference":
            return {"type": "text", "text": f"The tool {_text(block, 'tool_name', where)} is available now."}
        case "browser_state":
            told = {name: block[name] for name in ("tabs", "state_changes") if block.get(name)}
            return {"type": "text", "text": f"State of the browser: {orjson.dumps(told).decode()}"}
        case "container_upload":
            losses.add("messages.container_upload")
            return None
        case kind:
            raise _unsupported(kind, where)


def _unsupported(kind: Any, where: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"Content blocks {of_type(kind)} are not supported by this model.", param=where)


_HELD = frozenset({"type", "text", "source", "title", "cache_control"})
_HELD_BY = {
    "tool_use": frozenset({"type", "id", "name", "input", "toolset_name", "extra_content", "cache_control"}),
    "tool_result": frozenset({"type", "tool_use_id", "content", "is_error", "toolset_name", "cache_control"}),
    "search_result": frozenset({"type", "source", "title", "content", "cache_control"}),
    "tool_reference": frozenset({"type", "tool_name", "cache_control"}),
    "browser_state": frozenset({"type", "tabs", "state_changes", "cache_control"}),
    "container_upload": frozenset({"type", "file_id", "cache_control"}),
}


def _name_lost(block: Json, losses: Losses) -> None:
    """Name the block's fields that its translation lacks, unless they say nothing."""
    for name in block.keys() - _HELD_BY.get(block["type"], _HELD):
        if block[name] not in (None, [], "", {"enabled": False}, {"type": "direct"}):
            losses.add(f"messages.content.{name}")


def _url(source: Json, where: str) -> str:
    match source.get("type"):
        case "base64":
            return f"data:{_text(source, 'media_type', where)};base64,{_text(source, 'data', where)}"
        case "url":
            return _text(source, "url", where)
        case "file":
            raise UnsupportedParameter("Uploaded files are not supported; send the data itself.", param=where)
        case kind:
            raise UnsupportedParameter(f"A source {of_type(kind)} is not known.", param=where)


def _search_result(block: Json, where: str, losses: Losses) -> str:
    content = _parts(block.get("content") or "", where, losses)
    said = content if isinstance(content, str) else "\n\n".join(str(part.get("text") or "") for part in content)
    return f"{_text(block, 'title', where)}\n{_text(block, 'source', where)}\n\n{said}"


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
