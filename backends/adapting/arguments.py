"""Arguments of past tool calls as JSON objects, which most servers and chat templates demand.

A model may have written others, and an agent sends its history back as it is. Such a text is wrapped in an object,
as Anthropic's page on fine-grained tool streaming advises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from backends.wire.chat import Message, ToolCall
from catalog.types import Json

INVALID = "INVALID_JSON"
"""The field of the object that holds a text which is no JSON object."""
REPORTED = "messages.tool_calls.function.arguments"
"""The reported name of arguments that are wrapped."""


def object_of(text: str) -> Json:
    """The arguments of a call as an object: empty for an empty text, wrapped for one that is no JSON object."""
    found = _read(text)
    if found is not None:
        return found
    return {INVALID: text} if text.strip() else {}


def wrapped(value: Any) -> Json:
    """The object that stands for arguments of another type: it holds their JSON, of a string the text itself."""
    return {INVALID: value if isinstance(value, str) else orjson.dumps(value).decode()}


def wraps_arguments(messages: Sequence[Message]) -> bool:
    """Whether a past call has arguments that have to be wrapped."""
    return any(text.strip() and _read(text) is None for message in messages for text in _texts(message))


def with_object_arguments(messages: Sequence[Message]) -> list[Message] | None:
    """The messages with objects as the arguments of all calls; None if they have them already."""
    mended = {
        at: message.model_copy(update={"tool_calls": [_mended(call) for call in message.tool_calls or ()]})
        for at, message in enumerate(messages)
        if any(_read(text) is None for text in _texts(message))
    }
    return [mended.get(at, message) for at, message in enumerate(messages)] if mended else None


def _texts(message: Message) -> list[str]:
    return [call.function.arguments for call in message.tool_calls or () if call.function is not None]


def _read(text: str) -> Json | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _mended(call: ToolCall) -> ToolCall:
    if call.function is None or _read(call.function.arguments) is not None:
        return call
    arguments = orjson.dumps(object_of(call.function.arguments)).decode()
    return call.model_copy(update={"function": call.function.model_copy(update={"arguments": arguments})})
