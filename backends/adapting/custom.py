"""Custom tools, whose input is any text, as functions with one text, for providers that have functions alone."""

from __future__ import annotations

import json
from typing import Any

from backends.wire.chat import (
    ChatRequest,
    FunctionCall,
    FunctionDefinition,
    Message,
    NamedFunction,
    NamedToolChoice,
    Tool,
    ToolCall,
)
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

INPUT = "input"
_PARAMETERS: Json = {
    "type": "object",
    "properties": {INPUT: {"type": "string", "description": "The tool's input, as it is."}},
    "required": [INPUT],
    "additionalProperties": False,
}


def custom_names(request: ChatRequest) -> frozenset[str]:
    """The names of the request's custom tools."""
    return frozenset(_own(tool, f"tools.{at}")["name"] for at, tool in _custom_tools(request))


def as_functions(request: ChatRequest) -> ChatRequest:
    """The request with functions in the place of custom tools, and of their calls; itself if it has none.

    Raises UnsupportedParameter for a custom tool whose input has a grammar, InvalidRequest for a malformed one.
    """
    update: dict[str, Any] = {}
    if any(True for _ in _custom_tools(request)):
        update["tools"] = [
            _function(tool, at) if tool.type == "custom" else tool for at, tool in enumerate(request.tools or ())
        ]
    if any(call.type == "custom" for message in request.messages for call in message.tool_calls or ()):
        update["messages"] = [_message(message) for message in request.messages]
    choice = request.tool_choice
    if isinstance(choice, NamedToolChoice) and choice.type == "custom":
        named = NamedFunction(name=_own(choice, "tool_choice")["name"])
        update["tool_choice"] = NamedToolChoice(type="function", function=named)
    return request.model_copy(update=update) if update else request


def input_of(arguments: str) -> str:
    """The input in the arguments of a call; arguments that are cut off or of another form as they are."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments
    given = value.get(INPUT) if isinstance(value, dict) else None
    return given if isinstance(given, str) else arguments


def _custom_tools(request: ChatRequest) -> list[tuple[int, Tool]]:
    return [(at, tool) for at, tool in enumerate(request.tools or ()) if tool.type == "custom"]


def _function(tool: Tool, position: int) -> Tool:
    custom = _own(tool, f"tools.{position}")
    form = custom.get("format")
    if isinstance(form, dict) and form.get("type", "text") != "text":
        raise UnsupportedParameter(
            f"The custom tool '{custom['name'][:80]}' has a grammar, which this model's server cannot hold its "
            "input to. Leave out its format, or choose another model.",
            param=f"tools.{position}.custom.format",
        )
    described = {"description": custom["description"]} if isinstance(custom.get("description"), str) else {}
    definition = FunctionDefinition.model_validate(
        {"name": custom["name"], "parameters": _PARAMETERS, **described}
    )
    return tool.model_copy(update={"type": "function", "function": definition})


def _message(message: Message) -> Message:
    if not message.tool_calls:
        return message
    calls = [_call(call) if call.type == "custom" else call for call in message.tool_calls]
    return message.model_copy(update={"tool_calls": calls})


def _call(call: ToolCall) -> ToolCall:
    custom = _own(call, "messages")
    arguments = json.dumps({INPUT: str(custom.get("input") or "")}, ensure_ascii=False)
    function = FunctionCall(name=custom["name"], arguments=arguments)
    return call.model_copy(update={"type": "function", "function": function})


def _own(holder: Tool | ToolCall | NamedToolChoice, where: str) -> Json:
    """The ``custom`` of a tool, a call or a choice. Raises InvalidRequest for one without a name."""
    custom = (holder.model_extra or {}).get("custom")
    if not isinstance(custom, dict) or not isinstance(custom.get("name"), str) or not custom["name"]:
        raise InvalidRequest("A custom tool needs custom.name.", param=f"{where}.custom")
    return custom
