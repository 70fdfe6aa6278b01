"""Custom tools, whose input is any text, as functions with one text, for providers that have functions alone."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from backends.wire.chat import (
    ChatRequest,
    FunctionCall,
    FunctionDefinition,
    Message,
    NamedFunction,
    NamedToolChoice,
    Tool,
    ToolCall,
    TranslatedChat,
)
from catalog.errors import AnswerInvalid, InvalidRequest, UnsupportedParameter
from catalog.types import Json

H = TypeVar("H", Tool, ToolCall)
INPUT = "input"
INPUT_GRAMMAR = "x-input-grammar"
"""The key in a function's parameters with the grammar of its input, for a backend that binds the input to it."""
_PARAMETERS: Json = {
    "type": "object",
    "properties": {INPUT: {"type": "string", "description": "The tool's input, as it is."}},
    "required": [INPUT],
    "additionalProperties": False,
}


def custom_names(request: ChatRequest) -> frozenset[str]:
    """The names of the request's custom tools."""
    return frozenset(_own(tool, f"tools.{at}")["name"] for at, tool in _custom_tools(request))


def as_functions(request: ChatRequest, *, bound: bool = False) -> ChatRequest:
    """The request with functions in the place of custom tools, and of their calls; itself if it has none.

    The grammar of an input is described to the model. The backend binds the input to it if ``bound``, else
    :func:`lost_grammars` names it. Raises UnsupportedParameter for one that is not bound, in a request that was a
    chat from the beginning, and InvalidRequest for a malformed tool.
    """
    update: dict[str, Any] = {}
    if any(True for _ in _custom_tools(request)):
        told = bound or isinstance(request, TranslatedChat)
        update["tools"] = [
            _function(tool, at, told=told, bound=bound) if tool.type == "custom" else tool
            for at, tool in enumerate(request.tools or ())
        ]
    if any(call.type == "custom" for message in request.messages for call in message.tool_calls or ()):
        update["messages"] = [_message(message) for message in request.messages]
    choice = request.tool_choice
    if isinstance(choice, NamedToolChoice) and choice.type == "custom":
        named = NamedFunction(name=_own(choice, "tool_choice")["name"])
        update["tool_choice"] = NamedToolChoice(type="function", function=named)
    return request.model_copy(update=update) if update else request


def lost_grammars(request: ChatRequest) -> tuple[str, ...]:
    """The name for grammars of custom tools that :func:`as_functions` only describes."""
    if not isinstance(request, TranslatedChat):
        return ()
    return ("tools.format",) if any(_grammar(_own(tool, "tools")) for _, tool in _custom_tools(request)) else ()


def input_of(arguments: str, *, whole: bool) -> str:
    """The input in the arguments of a call; arguments of another form, which some models write, as they are.

    Raises AnswerInvalid for arguments of a ``whole`` answer that are cut off: a part of an input must not run.
    """
    try:
        value = json.loads(arguments)
    except ValueError:
        if whole and arguments.lstrip().startswith("{"):
            raise AnswerInvalid("The model's call of a custom tool has no whole input.") from None
        return arguments
    given = value.get(INPUT) if isinstance(value, dict) else None
    return given if isinstance(given, str) else arguments


def _custom_tools(request: ChatRequest) -> list[tuple[int, Tool]]:
    return [(at, tool) for at, tool in enumerate(request.tools or ()) if tool.type == "custom"]


def _grammar(custom: Json) -> Json | None:
    """The form of a custom tool's input, if it is not any text."""
    form = custom.get("format")
    return form if isinstance(form, dict) and form.get("type") == "grammar" else None


def _check_form(custom: Json, where: str) -> None:
    form = custom.get("format")
    if form is None or (isinstance(form, dict) and form.get("type") in ("text", "grammar")):
        return
    raise InvalidRequest("The format of a custom tool has the type 'text' or 'grammar'.", param=where)


def _function(tool: Tool, position: int, *, told: bool, bound: bool) -> Tool:
    custom = _own(tool, f"tools.{position}")
    _check_form(custom, f"tools.{position}.custom.format")
    about, form = custom.get("description"), _grammar(custom)
    if form is not None and told:
        given = form.get("grammar")
        grammar: Json = given if isinstance(given, dict) else {}
        about = (
            f"{about or ''}\nIts input has this grammar ({grammar.get('syntax')}):\n{grammar.get('definition')}"
        )
    elif form is not None:
        raise UnsupportedParameter(
            f"The custom tool '{custom['name'][:80]}' has a grammar, which this model's server cannot hold its "
            "input to. Leave out its format, or choose another model.",
            param=f"tools.{position}.custom.format",
        )
    described = {"description": about} if isinstance(about, str) else {}
    parameters = {**_PARAMETERS, INPUT_GRAMMAR: form.get("grammar")} if bound and form is not None else _PARAMETERS
    definition = FunctionDefinition.model_validate({"name": custom["name"], "parameters": parameters, **described})
    return _with_function(tool, definition)


def _message(message: Message) -> Message:
    if not message.tool_calls:
        return message
    calls = [_call(call) if call.type == "custom" else call for call in message.tool_calls]
    return message.model_copy(update={"tool_calls": calls})


def _call(call: ToolCall) -> ToolCall:
    custom = _own(call, "messages")
    arguments = json.dumps({INPUT: str(custom.get("input") or "")}, ensure_ascii=False)
    function = FunctionCall(name=custom["name"], arguments=arguments)
    return _with_function(call, function)


def _with_function(holder: H, function: FunctionDefinition | FunctionCall) -> H:
    """The tool or the call with this function in the place of its ``custom``."""
    made = holder.model_copy(update={"type": "function", "function": function})
    (made.model_extra or {}).pop("custom", None)
    return made


def _own(holder: Tool | ToolCall | NamedToolChoice, where: str) -> Json:
    """The ``custom`` of a tool, a call or a choice. Raises InvalidRequest for one without a name."""
    custom = (holder.model_extra or {}).get("custom")
    if not isinstance(custom, dict) or not isinstance(custom.get("name"), str) or not custom["name"]:
        raise InvalidRequest("A custom tool needs custom.name.", param=f"{where}.custom")
    return custom
