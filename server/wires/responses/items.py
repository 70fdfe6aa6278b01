"""Translates the input items of a Responses request into chat messages. Source: OpenAI's API reference."""

from __future__ import annotations

from typing import Any

import orjson

from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from catalog.validation.wording import of_type
from server.wires.responses import drawing
from server.wires.responses.client_tools import CLIENT_TOOLS, ITEMS, RESULTS, result_of
from server.wires.responses.reasoning import MADE_BY, read_reasoning
from server.wires.responses.tools import DRAWING, Toolbox, ToolKey, keys_of, space_of
from server.wires.translation import Losses, named

_OPAQUE = frozenset({None, "item_reference", "compaction", "compaction_trigger"})
"""Items that stand for a part of the conversation which only OpenAI can read: without it the answer is another."""


def to_messages(items: str | list[Json], toolbox: Toolbox, losses: Losses) -> list[Json]:
    """Translate ``input``. Consecutive items of the assistant become one message; calls have the toolbox's names.

    Items of OpenAI's own services, and fields that no chat has, go to ``losses``. Raises :class:`InvalidRequest`
    for malformed items.
    """
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    reader = _Reader(toolbox, losses)
    for position, item in enumerate(items):
        with losses.refusing():
            reader.read(item, f"input[{position}]")
    return [message for message in reader.messages if not _is_empty(message)]


def _is_empty(message: Json) -> bool:
    """Whether nothing was left of an assistant's items."""
    nothing = message.keys() <= {"role", "content", MADE_BY} and not message["content"]
    return message["role"] == "assistant" and nothing


class _Reader:
    """Reads items in their order into ``messages``."""

    def __init__(self, toolbox: Toolbox, losses: Losses) -> None:
        self.messages: list[Json] = []
        self._toolbox = toolbox
        self._losses = losses
        self._calls: dict[str, str] = {}
        self._signatures: dict[str, Json] = {}

    def read(self, item: Json, where: str) -> None:
        kind = item.get("type", "message" if "role" in item else None)
        if not isinstance(kind, str | None):
            raise InvalidRequest("An item's type must be a string.", param=f"{where}.type")
        messages, losses = self.messages, self._losses
        match kind:
            case "message":
                _message(messages, item, where, losses)
                _name_lost(item, _OF_ITEMS, "input", losses)
            case "function_call" | "custom_tool_call":
                _assistant(messages).setdefault("tool_calls", []).append(self._call(item, where))
                _name_lost(item, _OF_ITEMS, "input", losses)
            case "function_call_output" | "custom_tool_call_output":
                self._result(item, _content(item.get("output"), where, losses), where)
                _name_lost(item, _OF_ITEMS - _LOST_OF_RESULTS, "input", losses)
            case "reasoning":
                read_reasoning(_assistant(messages), item, self._signatures, losses)
            case "web_search_call" | "code_interpreter_call":  # a provider gets its own back, others read the text
                _assistant(messages).setdefault("server_tool_calls", []).append(item)
            case "image_generation_call" if drawing.is_own(item) and self._toolbox.drawing is not None:
                self._drawn_here(item, where)
            case "image_generation_call":
                _drawn(_assistant(messages), item, where)
            case _:
                self._of_agents(kind, item, where)

    def _of_agents(self, kind: str | None, item: Json, where: str) -> None:
        """Read an item of a tool that the client runs, or leave out one of a tool that OpenAI runs."""
        if kind == "item_reference":
            raise UnsupportedParameter(
                f"The item_reference {str(item.get('id'))[:80]!r} is not known here; send the item itself.",
                param=where,
            )
        if kind == "compaction":
            raise UnsupportedParameter(
                "This compaction was not made here for your key; send one of POST /v1/responses/compact, or the "
                "items themselves.",
                param=where,
            )
        if kind in _OPAQUE:
            raise UnsupportedParameter(f"Items {of_type(kind)} are not supported.", param=where)
        if kind in ("tool_search_call", "tool_search_output") and not item.get("call_id"):
            return  # the provider searched, and the toolbox has the tools
        if kind == "agent_message":
            self.messages.append({"role": "user", "content": _between_agents(item, where)})
        elif kind is not None and kind in ITEMS:
            self._client_call(ITEMS[kind], item, where)
            _name_lost(item, _OF_ITEMS, "input", self._losses)
        elif kind in RESULTS:
            self._result(item, self._found(item) if kind == "tool_search_output" else result_of(item), where)
        elif kind not in ("additional_tools", "configuration_update"):  # read with the request's own fields
            self._losses.add(f"input.{kind}")

    def _call(self, item: Json, where: str) -> Json:
        kind, given = ("custom", "input") if item["type"] == "custom_tool_call" else ("function", "arguments")
        name = self._toolbox.name_of(ToolKey(kind, named(item, "name", where), space_of(item)))
        called = {"name": name, given: _text(item, given, where)}
        call_id = named(item, "call_id", where)
        return {"id": call_id, "type": kind, kind: called, **self._signature(item, call_id)}

    def _signature(self, item: Json, call_id: str) -> Json:
        """The provider's signature of a call: the item's own, or from the reasoning before it."""
        given = item.get("extra_content")
        signature = given if isinstance(given, dict) else self._signatures.get(call_id)
        return {"extra_content": signature} if signature else {}

    def _drawn_here(self, item: Json, where: str) -> None:
        """A picture that the model had drawn here is a call of the function again, and its result."""
        call_id = named(item, "id", where)
        arguments = orjson.dumps({"prompt": item.get("revised_prompt") or ""}).decode()
        function = {"name": self._toolbox.name_of(DRAWING), "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        _assistant(self.messages).setdefault("tool_calls", []).append(call)
        self._result({"call_id": call_id}, drawing.result_of(item), where)

    def _client_call(self, kind: str, item: Json, where: str) -> None:
        call_id = named(item, "call_id" if item.get("call_id") else "id", where)
        if isinstance(item.get("id"), str):
            self._calls[item["id"]] = call_id
        arguments = CLIENT_TOOLS[kind].arguments_of(item, where)
        function = {"name": self._toolbox.name_of(ToolKey(kind, kind)), "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function, **self._signature(item, call_id)}
        _assistant(self.messages).setdefault("tool_calls", []).append(call)

    def _result(self, item: Json, content: str | list[Json], where: str) -> None:
        """The result of a call; that of a local shell names it by the id of its item, if by nothing else."""
        call_id = named(item, "call_id" if item.get("call_id") or not item.get("id") else "id", where)
        call_id = self._calls.get(call_id, call_id)
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def _found(self, item: Json) -> str:
        """The names of the tools that a search found; their definitions are among the chat's tools."""
        found = [self._toolbox.name_of(key) for key in keys_of(item.get("tools"))]
        return f"Found: {', '.join(found)}" if found else "Found no tools."


def _between_agents(item: Json, where: str) -> str:
    """The text of a message from one agent of the client to another, with their names.

    Codex sends what another model wrote as ``encrypted_content``; it is that model's plain text.
    """
    parts = item.get("content")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise InvalidRequest("A message between agents has a list of parts.", param=f"{where}.content")
    texts = [part.get("text") or part.get("encrypted_content") for part in parts]
    author, recipient = (str(item.get(name) or "an agent")[:200] for name in ("author", "recipient"))
    return "\n".join(
        [f"Message from {author} to {recipient}:", *(text for text in texts if isinstance(text, str))]
    )


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
    if role == "assistant" and isinstance(item.get("extra_content"), dict):
        messages[-1]["extra_content"] = item["extra_content"]


def _drawn(message: Json, item: Json, where: str) -> None:
    """A picture that the model made is one of the message's ``images``; one that failed leaves nothing."""
    if item.get("result") is None and item.get("status") == "failed":
        return
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
            parts.append(_part(part, f"{where}.content[{at}]", losses))
    return parts


def _part(part: Any, where: str, losses: Losses) -> Json:
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
        case "input_file" | "input_image" if part.get("file_id"):
            raise UnsupportedParameter("Uploaded files are not supported; send the data itself.", param=where)
        case "input_file":
            raise InvalidRequest("A part of the type 'input_file' needs its file_data or file_url.", param=where)
        case "input_image":
            raise InvalidRequest("A part of the type 'input_image' needs its image_url.", param=where)
        case _:
            raise UnsupportedParameter(f"A content part {of_type(kind)} is not known.", param=where)
    point = part.get("prompt_cache_breakpoint")
    if isinstance(point, dict):
        made["cache_control"] = {"type": "ephemeral", "ttl": "1h"}  # OpenAI's lives for 30 minutes or 12 hours
        if point.get("ttl") == "12h":
            losses.add("input.content.prompt_cache_breakpoint.ttl")
    _name_lost(part, _OF_PARTS, "input.content", losses)
    return made


_SILENT: tuple[Any, ...] = (None, False, "", [], {}, {"type": "direct"}, {"type": "local"})
"""Values of fields that say nothing."""
_OF_PARTS = frozenset(
    {
        *("type", "text", "refusal", "image_url", "detail", "input_audio", "file_data", "file_url", "filename"),
        *("prompt_cache_breakpoint", "annotations", "grounding", "logprobs"),
    }
)
_OF_ITEMS = frozenset(
    {
        *("type", "id", "status", "role", "content", "phase", "extra_content", "call_id", "name", "namespace"),
        *("arguments", "input", "output", "action", "operation", "tools", "execution", "max_output_length"),
    }
)
_LOST_OF_RESULTS = frozenset({"name", "namespace"})


def _name_lost(holder: Json, read: frozenset[str], place: str, losses: Losses) -> None:
    """Name the fields that the translation does not read, unless they say nothing."""
    for name in holder.keys() - read:
        if holder[name] not in _SILENT:
            losses.add(f"{place}.{name[:80]}")


def _text(item: Json, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"{where}.{name} must be a string.", param=f"{where}.{name}")
    return value
