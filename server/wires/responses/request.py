"""Translates a Responses request into a chat request."""

from __future__ import annotations

from typing import Any

from backends.wire.chat import Original, TranslatedChat
from backends.wire.responses import ResponsesRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from server.wires.responses.items import to_messages
from server.wires.translation import Losses, split_extras, validated
from server.wires.web_search import OF_RESPONSES, from_responses

_LOGPROBS = "message.output_text.logprobs"
_INCLUDES = frozenset({_LOGPROBS, "reasoning.encrypted_content", "web_search_call.action.sources"})


def to_chat(request: ResponsesRequest, *, kept: bool = False) -> TranslatedChat:
    """Translate the request; the chat is always streamed. Fields that no chat has are left out, and named.

    The chat keeps the request for upstreams of the Responses API, which get it as it is. Responses that such an
    upstream has stored and OpenAI's own tools are for them alone; ``kept`` responses are stored here.
    ``max_tool_calls``, which limits those tools, is ignored elsewhere.
    Raises :class:`InvalidRequest` for a malformed request.
    """
    losses = Losses()
    _state(request, losses, kept=kept)
    messages = to_messages(request.input or [], losses)
    if request.instructions:
        messages.insert(0, {"role": "system", "content": request.instructions})
    if not messages and losses.refusal is not None:
        messages.append({"role": "user", "content": ""})  # the conversation is stored, and no chat is sent
    extras, left_out = split_extras(request.model_extra or {}, frozenset())
    losses.add(*left_out)
    body: Json = {**extras, "model": request.model, "messages": messages, "stream": True}
    body["stream_options"] = {"include_usage": True}
    renamed = {"max_completion_tokens": request.max_output_tokens}
    same = ("temperature", "top_p", "parallel_tool_calls", "user", "metadata")
    body |= {name: value for name in same if (value := getattr(request, name)) is not None}
    body |= {name: value for name, value in renamed.items() if value is not None}
    _tools(request, body, losses)
    _text(request, body)
    if request.reasoning is not None:
        if request.reasoning.effort is not None:
            body["reasoning_effort"] = request.reasoning.effort
        losses.add(
            *(f"reasoning.{name}" for name, value in (request.reasoning.model_extra or {}).items() if value)
        )
    if request.max_tool_calls is not None and "web_search_options" in body:
        losses.add("max_tool_calls")
    if _LOGPROBS in (request.include or ()) or request.top_logprobs:
        body["logprobs"] = True
        if request.top_logprobs:
            body["top_logprobs"] = request.top_logprobs
    original = Original("responses", request, refusal=losses.refusal)
    return validated(body, losses.names, place=lambda name: name.replace("messages", "input"), original=original)


def _state(request: ResponsesRequest, losses: Losses, *, kept: bool) -> None:
    """Refuse what an upstream of the Responses API alone may know: ids that are not the gateway's, and prompts."""
    absent = "is not found: it was deleted or has expired, or another key made it. Send its items in 'input'."
    refusals = {
        "previous_response_id": (
            request.previous_response_id,
            f"Previous response with id {str(request.previous_response_id)[:100]!r} {absent}",
        ),
        "conversation": (request.conversation, f"The conversation {absent}"),
        "store": (
            request.store and not kept,
            "Responses are not stored here (storage.store); omit 'store' or set it to false.",
        ),
        "prompt": (request.prompt, "This model has no prompt templates; send 'instructions' and 'input'."),
    }
    for name, (value, reason) in refusals.items():
        if value:
            with losses.refusing():
                raise UnsupportedParameter(reason, param=name)
    for name in request.include or ():
        if name not in _INCLUDES:
            with losses.refusing():
                raise UnsupportedParameter(
                    f"{name[:80]!r} belongs to a tool that is not supported.", param="include"
                )


def _tools(request: ResponsesRequest, body: Json, losses: Losses) -> None:
    tools: list[Json] = []
    for position, tool in enumerate(request.tools or ()):
        with losses.refusing():
            if tool.get("type") in OF_RESPONSES:
                body["web_search_options"] = from_responses(tool, f"tools[{position}]", losses.add)
                continue
            tools.append(_tool(tool, position))
            losses.add(*(f"tools.{name}" for name in tool.keys() - _TOOL if tool[name] not in (None, False, [])))
    choice: Any = request.tool_choice
    if isinstance(choice, dict):
        match choice.get("type"):
            case "function" | "custom" as kind:
                choice = {"type": kind, kind: {"name": choice.get("name")}}
            case "allowed_tools":
                named = choice.get("tools")
                named = named if isinstance(named, list) else []
                allowed = [tool.get("name") for tool in named if isinstance(tool, dict)]
                tools = [tool for tool in tools if tool[tool["type"]].get("name") in allowed]
                if not any(isinstance(tool, dict) and tool.get("type") in OF_RESPONSES for tool in named):
                    body.pop("web_search_options", None)
                choice = choice.get("mode", "auto")
            case kind:
                choice = None
                with losses.refusing():
                    raise UnsupportedParameter(
                        f"Tool choices of type {str(kind)[:80]!r} are not supported.", param="tool_choice"
                    )
    if tools:
        body["tools"] = tools
    if choice is not None and (tools or (choice not in ("auto", "none") and losses.refusal is None)):
        body["tool_choice"] = choice


_TOOL = frozenset({"type", "name", "description", "parameters", "strict", "format"})


def _tool(tool: Json, position: int) -> Json:
    match tool.get("type"):
        case "function":
            names = ("name", "description", "parameters", "strict")
            return {
                "type": "function",
                "function": {name: tool[name] for name in names if tool.get(name) is not None},
            }
        case "custom":
            custom = {name: tool[name] for name in ("name", "description") if tool.get(name) is not None}
            form = tool.get("format")
            if isinstance(form, dict) and form.get("type") == "grammar":
                grammar = {name: form.get(name) for name in ("definition", "syntax")}
                custom["format"] = {"type": "grammar", "grammar": grammar}
            return {"type": "custom", "custom": custom}
        case kind:
            raise UnsupportedParameter(
                f"Only function and custom tools are supported by this model, not {str(kind)[:80]!r}.",
                param=f"tools[{position}]",
            )


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
