"""Translates ``functions`` and ``function_call``, which OpenAI replaced by tools, for clients of 2023.

A request becomes one with tools at the door, so that every model that takes tools answers it, and the call of its
answer becomes a ``function_call`` again. Such an answer has one call at most: models are told to make no more, and
of several the first counts. Source: OpenAI's API reference, deprecated parameters of chat completions.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from backends.wire.chat import ChatRequest, Message
from catalog.errors import InvalidRequest
from catalog.types import Json

_KEPT = ("name", "arguments", "extra_content")


def with_tools(body: ChatRequest) -> ChatRequest:
    """The request with tools in place of functions; the same object if it has none.

    Raises InvalidRequest for functions beside tools, and for a choice, a call or a result that is malformed.
    """
    extra = body.model_extra or {}
    asks = "functions" in extra or "function_call" in extra
    if not asks and not any(map(_has_function, body.messages)):
        return body
    sent = body.to_wire()
    _translate_choice(sent)
    sent["messages"] = _translate_messages(sent["messages"])
    try:
        return ChatRequest.model_validate(sent)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_input=False)[0]
        param = _as_sent(".".join(map(str, first["loc"])))
        raise InvalidRequest(f"'{param}': {first['msg']}.", param=param) from None


def _has_function(message: Message) -> bool:
    """Whether it is a function's result or calls one; today's SDKs write ``function_call: null``."""
    if message.role != "assistant":
        return message.role == "function"
    return isinstance((message.model_extra or {}).get("function_call"), dict)


def _translate_choice(sent: Json) -> None:
    functions, choice = sent.pop("functions", None), sent.pop("function_call", None)
    if functions is None or functions == []:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("'function_call' names a function, and there are none.", param="function_call")
        return
    if not isinstance(functions, list):
        raise InvalidRequest("'functions' must be a list of objects.", param="functions")
    if sent.get("tools"):
        raise InvalidRequest("Send 'tools' alone, not 'functions' beside it.", param="functions")
    sent["tools"] = [{"type": "function", "function": function} for function in functions]
    if isinstance(choice, dict):
        sent["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice in ("none", "auto"):
        sent["tool_choice"] = choice
    elif choice is not None:
        raise InvalidRequest(
            "'function_call' must be 'none', 'auto' or {\"name\": a function's name}.", param="function_call"
        )
    if choice != "none":
        sent["parallel_tool_calls"] = False


def _translate_messages(messages: list[Json]) -> list[Json]:
    """The messages with calls and results of tools; a result belongs to the call before it."""
    translated: list[Json] = []
    called: str | None = None
    for position, message in enumerate(messages):
        call = message.get("function_call")
        if message["role"] == "assistant" and isinstance(call, dict):
            called = f"call_{position}"
            function = {name: call.get(name) for name in ("name", "arguments")}
            made = {"id": called, "type": "function", "function": function}
            if "extra_content" in call:
                made["extra_content"] = call["extra_content"]
            kept = {name: value for name, value in message.items() if name != "function_call"}
            translated.append({"content": None, **kept, "tool_calls": [made]})
        elif message["role"] == "function":
            if called is None:
                raise InvalidRequest(
                    "A message of the role 'function' follows the assistant's message with its function_call.",
                    param=f"messages[{position}]",
                )
            translated.append({"role": "tool", "tool_call_id": called, "content": message.get("content") or ""})
            called = None
        else:
            translated.append({name: value for name, value in message.items() if name != "function_call"})
    return translated


def _as_sent(place: str) -> str:
    """The caller's own name of a place within the translated request."""
    place = place.replace("tools.", "functions.").replace(".function.", ".")
    return place.replace("tool_choice", "function_call").replace("tool_calls.0", "function_call")


def as_function_call(chunk: Json) -> Json:
    """Turn the tool calls of a chunk into a function's, in place; of several calls, the first."""
    for choice in chunk.get("choices") or ():
        if choice.get("finish_reason") == "tool_calls":
            choice["finish_reason"] = "function_call"
        delta = choice.get("delta") or {}
        for call in delta.pop("tool_calls", None) or ():
            if call.get("index", 0) == 0:
                parts = {**call, **(call.get("function") or {})}
                delta["function_call"] = {name: parts[name] for name in _KEPT if parts.get(name) is not None}
    return chunk


def check_results(messages: Sequence[Message]) -> None:
    """Raises InvalidRequest, in OpenAI's words, for a tool's result to which no earlier message has the call."""
    called: set[str] | None = None
    for position, message in enumerate(messages):
        if message.tool_calls:
            called = (called or set()) | {call.id for call in message.tool_calls}
        elif message.role == "tool" and called is None:
            raise InvalidRequest(
                "Messages with role 'tool' must be a response to a preceding message with 'tool_calls'.",
                param=f"messages[{position}].role",
            )
        elif message.role == "tool" and message.tool_call_id not in {None, *(called or ())}:
            raise InvalidRequest(
                "The 'tool_call_id' of this message is not in the 'tool_calls' of a preceding message.",
                param=f"messages[{position}].tool_call_id",
            )
