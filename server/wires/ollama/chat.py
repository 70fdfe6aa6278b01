"""Translates Ollama's chats into chat requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from backends.local.tool_schema import new_call_id
from backends.wire.chat import TranslatedChat
from catalog.errors import InvalidRequest, UndecodableMedia
from catalog.types import Json
from server.wires.ollama.options import OLLAMAS, effort_of, option_place, response_format, split_options
from server.wires.ollama.requests import GivenMessage, OllamaAnswerRequest, OllamaChatRequest
from server.wires.translation import Losses, split_extras, validated

FOREIGN = OLLAMAS | {"keep_alive"}
"""Fields that a server of Ollama alone takes."""
_NOT_OURS = frozenset({"truncate", "shift"})
"""Ollama's consent to cut a prompt that is too long; here it is refused instead."""
_READ = _NOT_OURS | {"response_format"}
_KINDS = (("iVBORw0KGgo", "png"), ("/9j/", "jpeg"), ("R0lGOD", "gif"), ("UklGR", "webp"), ("Qk", "bmp"))
"""Media types of pictures by the beginning of their base64 text."""


def to_chat(request: OllamaChatRequest, *, model: str, keep_alive: Any = None, losses: Losses) -> TranslatedChat:
    """Translate the request for ``model``; the chat is always streamed.

    ``keep_alive`` is the one to send on to a server of Ollama. What no chat has is left out, and named in
    ``losses``. Raises InvalidRequest.
    """
    body = {**shared_fields(request, losses), "model": model, "stream_options": {"include_usage": True}}
    body["messages"] = list(_messages(request.messages or ()))
    if request.tools:
        body["tools"] = [_tool(tool, at, losses) for at, tool in enumerate(request.tools)]
    if (effort := effort_of(request.think)) is not None:
        body["reasoning_effort"] = effort
    if request.logprobs or request.top_logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = request.top_logprobs or 0
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    return validated(body, losses.names, foreign=FOREIGN, place=option_place)


def shared_fields(request: OllamaAnswerRequest, losses: Losses) -> Json:
    """The fields that chats and completions share. Raises InvalidRequest for fields that no request may have."""
    given = request.model_extra or {}
    extras, left_out = split_extras({name: given[name] for name in given if name not in _READ}, frozenset())
    losses.add(*left_out, *(name for name in given if name in _NOT_OURS and given[name]))
    ours, theirs, unknown = split_options(request.options or {})
    losses.add(*unknown)
    body: Json = {**extras, **theirs, **ours, "stream": True}
    if (form := response_format(request)) is not None:
        body["response_format"] = form
    return body


def picture_url(data: str, where: str) -> str:
    """The data URL of a picture's base64 text. Raises UndecodableMedia for what is no picture."""
    if data[:5].lower() == "data:":
        return data
    for beginning, kind in _KINDS:
        if data.startswith(beginning):
            return f"data:image/{kind};base64,{data}"
    raise UndecodableMedia(f"{where}: an image is the base64 text of a PNG, JPEG, GIF, WebP or BMP.", param=where)


def _messages(messages: Sequence[GivenMessage]) -> Iterator[Json]:
    open_calls: list[tuple[str, str]] = []
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        if message.role == "tool":
            yield _result(message, open_calls, where)
            continue
        said: Json = {"role": message.role, "content": message.content or ""}
        if message.images:
            said["content"] = _with_pictures(message, where)
        if message.role == "assistant":
            if message.thinking:
                said["reasoning_content"] = message.thinking
            if message.tool_calls:
                open_calls = [(call.id or new_call_id(), call.function.name) for call in message.tool_calls]
                said["tool_calls"] = [
                    {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
                    for (call_id, name), arguments in zip(open_calls, _arguments(message), strict=True)
                ]
                open_calls = list(open_calls)
        yield said


def _arguments(message: GivenMessage) -> Iterator[str]:
    for call in message.tool_calls or ():
        given = call.function.arguments
        yield given if isinstance(given, str) else orjson.dumps(given or {}).decode()


def _result(message: GivenMessage, open_calls: list[tuple[str, str]], where: str) -> Json:
    """A tool's result, with the id of its call: by that id, else by the tool's name, else the next one."""
    tool = message.tool_name or message.name
    found = next(
        (
            at
            for at, (call_id, name) in enumerate(open_calls)
            if (call_id == message.tool_call_id if message.tool_call_id else tool in (None, name))
        ),
        None,
    )
    if found is None and open_calls and message.tool_call_id is None:
        found = 0
    if found is None:
        raise InvalidRequest(
            f"{where}: a tool's result must follow the assistant's message with its call in 'tool_calls'.",
            param=where,
        )
    call_id, _ = open_calls.pop(found)
    content = _with_pictures(message, where) if message.images else message.content or ""
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def _with_pictures(message: GivenMessage, where: str) -> list[Json]:
    parts: list[Json] = [{"type": "text", "text": message.content}] if message.content else []
    for at, data in enumerate(message.images or ()):
        url = picture_url(data, f"{where}.images[{at}]")
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def _tool(tool: Json, position: int, losses: Losses) -> Json:
    where = f"tools[{position}]"
    function = tool.get("function")
    if tool.get("type") not in (None, "", "function") or not isinstance(function, dict):
        raise InvalidRequest(f"{where}: a tool is a function, with its name and parameters.", param=where)
    losses.add(*(f"tools.function.{name}" for name in function.keys() - _FUNCTION if function[name] is not None))
    return {
        "type": "function",
        "function": {name: value for name, value in function.items() if name in _FUNCTION and value is not None},
    }


_FUNCTION = frozenset({"name", "description", "parameters", "strict"})
