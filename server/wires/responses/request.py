"""Translates a Responses request into a chat request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backends.wire.chat import TranslatedChat
from backends.wire.responses import ResponsesRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from server.wires.responses.items import to_messages
from server.wires.translation import split_extras, validated
from server.wires.web_search import OF_RESPONSES, from_responses

_LOGPROBS = "message.output_text.logprobs"
_INCLUDES = frozenset({_LOGPROBS, "reasoning.encrypted_content", "web_search_call.action.sources"})


def to_chat(request: ResponsesRequest) -> TranslatedChat:
    """Translate the request; the chat is always streamed. Fields that no chat has are left out, and named.

    ``max_tool_calls`` is ignored: it limits OpenAI's own tools, which are not supported. Raises
    :class:`UnsupportedParameter` for fields that need stored responses or OpenAI's services.
    """
    _refuse_state(request)
    messages = to_messages(request.input)
    if request.instructions:
        messages.insert(0, {"role": "system", "content": request.instructions})
    extras, left_out = split_extras(request.model_extra or {}, frozenset())
    body: Json = {**extras, "model": request.model, "messages": messages, "stream": True}
    body["stream_options"] = {"include_usage": True}
    renamed = {"max_completion_tokens": request.max_output_tokens}
    same = ("temperature", "top_p", "parallel_tool_calls", "user", "metadata")
    body |= {name: value for name in same if (value := getattr(request, name)) is not None}
    body |= {name: value for name, value in renamed.items() if value is not None}
    losses = dict.fromkeys(left_out)
    _tools(request, body, losses.setdefault)
    _text(request, body)
    if request.reasoning is not None and request.reasoning.effort is not None:
        body["reasoning_effort"] = request.reasoning.effort
    if _LOGPROBS in (request.include or ()) or request.top_logprobs:
        body["logprobs"] = True
        if request.top_logprobs:
            body["top_logprobs"] = request.top_logprobs
    return validated(body, tuple(losses), place=lambda name: name.replace("messages", "input"))


def _refuse_state(request: ResponsesRequest) -> None:
    stored = "Responses are not stored; send the whole conversation in 'input'."
    refusals = {
        "previous_response_id": (request.previous_response_id, stored),
        "conversation": (request.conversation, stored),
        "store": (request.store, "Responses are not stored; omit 'store' or set it to false."),
        "background": (request.background, "Background responses are not supported; stream instead."),
        "prompt": (request.prompt, "Prompt templates are not supported; send 'instructions' and 'input'."),
        "truncation": (
            request.truncation == "auto",
            "Conversations are never truncated; set 'truncation' to 'disabled'.",
        ),
    }
    for name, (value, reason) in refusals.items():
        if value:
            raise UnsupportedParameter(reason, param=name)
    for name in request.include or ():
        if name not in _INCLUDES:
            raise UnsupportedParameter(f"{name[:80]!r} belongs to a tool that is not supported.", param="include")


def _tools(request: ResponsesRequest, body: Json, lose: Callable[[str], Any]) -> None:
    tools = []
    for position, tool in enumerate(request.tools or ()):
        if tool.get("type") in OF_RESPONSES:
            body["web_search_options"] = from_responses(tool, f"tools[{position}]", lose)
        else:
            tools.append(_tool(tool, position))
    choice: Any = request.tool_choice
    if isinstance(choice, dict):
        match choice.get("type"):
            case "function":
                choice = {"type": "function", "function": {"name": choice.get("name")}}
            case "allowed_tools":
                named = choice.get("tools")
                named = named if isinstance(named, list) else []
                allowed = [tool.get("name") for tool in named if isinstance(tool, dict)]
                tools = [tool for tool in tools if tool["function"].get("name") in allowed]
                if not any(isinstance(tool, dict) and tool.get("type") in OF_RESPONSES for tool in named):
                    body.pop("web_search_options", None)
                choice = choice.get("mode", "auto")
            case kind:
                raise UnsupportedParameter(
                    f"Tool choices of type {str(kind)[:80]!r} are not supported.", param="tool_choice"
                )
    if tools:
        body["tools"] = tools
    if choice is not None and (tools or choice not in ("auto", "none")):
        body["tool_choice"] = choice


def _tool(tool: Json, position: int) -> Json:
    if tool.get("type") != "function":
        raise UnsupportedParameter(
            f"Only function tools are supported, not {str(tool.get('type'))[:80]!r}.", param=f"tools[{position}]"
        )
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def _text(request: ResponsesRequest, body: Json) -> None:
    if request.text is None:
        return
    if request.text.verbosity is not None:
        body["verbosity"] = request.text.verbosity
    wanted = request.text.format
    if wanted is None or wanted.type == "text":
        return
    body["response_format"] = {"type": wanted.type}
    if wanted.type == "json_schema":
        if wanted.name is None or wanted.schema_ is None:
            raise InvalidRequest("text.format needs a name and a schema.", param="text.format")
        schema: Json = {"name": wanted.name, "schema": wanted.schema_, "strict": wanted.strict}
        if wanted.description:
            schema["description"] = wanted.description
        body["response_format"]["json_schema"] = schema
