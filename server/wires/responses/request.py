"""Translates a Responses request into a chat request."""

from __future__ import annotations

from collections.abc import Callable, Collection

from pydantic import ValidationError

from backends.wire.chat import NO_PAID_TOOLS, Original, PaidTools, TranslatedChat
from backends.wire.common import WireModel
from backends.wire.responses import INCLUDES, Reasoning, ResponsesRequest, TextConfig
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from catalog.validation.wording import describe, of_type, place
from server.wires.responses.items import to_messages
from server.wires.responses.reasoning import makers_in
from server.wires.responses.tools import Toolbox, ToolKey
from server.wires.translation import Losses, named, split_extras, validated
from server.wires.web_search import OF_RESPONSES, from_responses

_LOGPROBS = "message.output_text.logprobs"
_INCLUDES = frozenset({_LOGPROBS, "reasoning.encrypted_content", "web_search_call.action.sources"})


_IN_CONTAINERS = ("code_interpreter", "shell")
"""Hosted tools that run in a container each, which is paid by the piece."""


class _Update(WireModel):
    """An item that changes the configuration of the responses after it."""

    reasoning: Reasoning | None = None
    text: TextConfig | None = None


def to_chat(
    request: ResponsesRequest,
    *,
    searches: Callable[[str], bool] | None = None,
    draws: Callable[[Json], bool] = lambda _: False,
    withheld: str | None = None,
) -> TranslatedChat:
    """Translate the request; the chat is always streamed. Fields that no chat has are left out, and named.

    The chat keeps the request for upstreams of the Responses API, which get it as it is. Prompts and OpenAI's own
    tools are for them alone: the tools are left out unless the choice of a tool demands one. ``max_tool_calls``,
    which limits tools that no client runs, bounds the searches of other providers. ``searches`` tells by a model's
    name whether it can search the web; without it, a request that wants a search is for models that can. ``draws``
    tells whether the gateway serves a tool ``image_generation`` itself. ``withheld`` is an id that must not go to
    such an upstream. Raises :class:`InvalidRequest` for a malformed request.
    """
    losses = Losses()
    _state(request, losses)
    toolbox = Toolbox(request, draws=draws)
    messages = to_messages(request.input or [], toolbox, losses)
    if request.instructions:
        messages.insert(0, {"role": "system", "content": request.instructions})
    if not messages and losses.refusal is not None:
        messages.append({"role": "user", "content": ""})  # the conversation is stored, and no chat is sent
    if not messages and losses.names:
        raise InvalidRequest(
            f"'input' has nothing that a model can read: items of these types are left out: "
            f"{', '.join(name.removeprefix('input.')[:80] for name in losses.names)}.",
            param="input",
        )
    if not messages:
        raise InvalidRequest("'input' is empty; send a text or an item.", param="input")
    extras, left_out = split_extras(request.model_extra or {}, frozenset())
    losses.add(*left_out)
    body: Json = {**extras, "model": request.model, "messages": messages, "stream": True}
    body["stream_options"] = {"include_usage": True}
    renamed = {"max_completion_tokens": request.max_output_tokens}
    same = ("temperature", "top_p", "parallel_tool_calls", "user", "metadata")
    body |= {name: value for name in same if (value := getattr(request, name)) is not None}
    body |= {name: value for name, value in renamed.items() if value is not None}
    _tools(request, toolbox, body, losses, searches)
    _text(request.text, body, losses)
    _reasoning(request.reasoning, body, losses)
    if isinstance(request.input, list):
        _update(request.input, body, losses)
    if request.max_tool_calls is not None and "web_search_options" in body:
        body["web_search_options"]["max_uses"] = request.max_tool_calls
    if _LOGPROBS in (request.include or ()) or request.top_logprobs:
        body["logprobs"] = True
        if request.top_logprobs:
            body["top_logprobs"] = request.top_logprobs
    return validated(
        body,
        losses.names,
        place=lambda name: name.replace("messages", "input"),
        original=Original(
            "responses",
            request,
            refusal=losses.refusal,
            own_tools=toolbox.is_lossy,
            paid=_paid(request, toolbox),
            withheld=withheld,
        ),
        makers=makers_in(messages),
    )


def _paid(request: ResponsesRequest, toolbox: Toolbox) -> PaidTools:
    """The hosted tools that cost money. A search for tools costs its tokens alone."""
    if not toolbox.hosted or request.tool_choice == "none":
        return NO_PAID_TOOLS
    kinds = [tool["type"] for tool, _ in toolbox.hosted]
    others = dict.fromkeys(kind for kind in kinds if kind not in (*OF_RESPONSES, *_IN_CONTAINERS, "tool_search"))
    return PaidTools(
        searches=request.max_tool_calls if any(kind in OF_RESPONSES for kind in kinds) else 0,
        containers=sum(kind in _IN_CONTAINERS for kind in kinds),
        others=tuple(others),
    )


def _state(request: ResponsesRequest, losses: Losses) -> None:
    """Refuse what an upstream of the Responses API alone may have: prompts, and parts of its tools' results."""
    if request.prompt:
        losses.refuse("This model has no prompt templates; send 'instructions' and 'input'.", "prompt")
    for name in request.include or ():
        if name not in _INCLUDES:
            with losses.refusing():
                why = "belongs to a tool that this model lacks" if name in INCLUDES else "cannot be included"
                choices = f"Choose of: {', '.join(sorted(_INCLUDES))}."
                raise UnsupportedParameter(f"{name[:80]!r} {why}. {choices}", param="include")


def _tools(
    request: ResponsesRequest,
    toolbox: Toolbox,
    body: Json,
    losses: Losses,
    searches: Callable[[str], bool] | None,
) -> None:
    tools = toolbox.chat_tools(losses)
    for tool, where in toolbox.hosted:
        kind = tool["type"]
        live = kind in OF_RESPONSES and tool.get("external_web_access") is not False
        if live and (searches is None or searches(request.model)):
            body["web_search_options"] = from_responses(tool, where, losses.add)
        else:
            losses.add(f"tools.{kind}")
    choice = request.tool_choice
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        given = _named_tools(choice)
        allowed = {key for tool in given for key in _allowed(tool, toolbox, strict=request.prompt is None)}
        tools = [tool for tool in tools if toolbox.key_of(_name(tool)) in allowed]
        if not any(tool["type"] in OF_RESPONSES for tool in given):
            body.pop("web_search_options", None)
        choice = choice.get("mode", "auto")
    elif isinstance(choice, dict):
        choice = _chosen(choice, toolbox, losses)
    if choice == "required" and not tools:
        losses.refuse("tool_choice requires a call, and this model has none of these tools.", "tool_choice")
        choice = None
    if tools:
        body["tools"] = tools
    if choice is not None and tools:
        body["tool_choice"] = choice


def _name(tool: Json) -> str:
    return str(tool[tool["type"]]["name"])


def _named_tools(choice: Json) -> list[Json]:
    """The list of the choice ``allowed_tools``. Raises InvalidRequest for a malformed choice."""
    if choice.get("mode", "auto") not in ("auto", "required"):
        raise InvalidRequest("tool_choice.mode must be 'auto' or 'required'.", param="tool_choice.mode")
    tools = choice.get("tools")
    if not isinstance(tools, list) or not all(
        isinstance(tool, dict) and isinstance(tool.get("type"), str) for tool in tools
    ):
        raise InvalidRequest(
            "tool_choice.tools must be a list of objects with a 'type'.", param="tool_choice.tools"
        )
    return tools


def _allowed(tool: Json, toolbox: Toolbox, *, strict: bool) -> Collection[ToolKey]:
    """The tools that an entry of ``allowed_tools`` names: one, all of a namespace, or none that the chat has.

    ``strict``: all tools are in the request. Raises InvalidRequest for an entry that is not among them.
    """
    if (keys := toolbox.keys_named(tool)) or not strict or toolbox.has_hosted(tool):
        return keys
    what = repr(str(tool["name"])[:80]) if "name" in tool else f"a tool {of_type(tool['type'])}"
    raise InvalidRequest(
        f"tool_choice allows {what}, which is not among the tools. A function of a namespace has its 'namespace'.",
        param="tool_choice.tools",
    )


def _chosen(choice: Json, toolbox: Toolbox, losses: Losses) -> Json | None:
    """The choice of one tool. Raises InvalidRequest for a tool that the request does not have."""
    chosen = toolbox.chosen(choice)
    if chosen is not None:
        return chosen
    kind = choice.get("type")
    if kind in ("function", "custom"):
        named(choice, "name", "tool_choice")
        raise InvalidRequest(
            f"tool_choice names {str(choice.get('name'))[:80]!r}, which is not among the tools.",
            param="tool_choice",
        )
    losses.refuse(
        f"This model cannot be made to use a tool {of_type(kind)}; leave 'tool_choice' out, or ask another model.",
        "tool_choice",
    )
    return None


def _update(items: list[Json], body: Json, losses: Losses) -> None:
    """Apply the items that change the configuration from their place on: the last of each setting counts.

    Raises InvalidRequest for a malformed one.
    """
    for position, item in enumerate(items):
        if item.get("type") != "configuration_update":
            continue
        try:
            update = _Update.model_validate(item)
        except ValidationError as wrong:
            first = wrong.errors(include_url=False)[0]
            where = f"input[{position}].{place(first)}"
            raise InvalidRequest(f"{where}: {describe(first, value=False)}", param=where) from None
        _reasoning(update.reasoning, body, losses)
        _text(update.text, body, losses)


def _reasoning(reasoning: Reasoning | None, body: Json, losses: Losses) -> None:
    if reasoning is None:
        return
    if reasoning.effort is not None:
        body["reasoning_effort"] = reasoning.effort
    losses.add(*(f"reasoning.{name}" for name, value in (reasoning.model_extra or {}).items() if value))


def _text(text: TextConfig | None, body: Json, losses: Losses) -> None:
    if text is None:
        return
    losses.add(*(f"text.{name}" for name, value in (text.model_extra or {}).items() if value))
    if text.verbosity is not None:
        body["verbosity"] = text.verbosity
    wanted = text.format
    if wanted is None:
        return
    body.pop("response_format", None)
    if wanted.type == "text":
        return
    body["response_format"] = {"type": wanted.type}
    if wanted.type == "json_schema":
        if wanted.name is None or wanted.schema_ is None:
            raise InvalidRequest("text.format needs a name and a schema.", param="text.format")
        schema: Json = {"name": wanted.name, "schema": wanted.schema_, "strict": wanted.strict}
        if wanted.description:
            schema["description"] = wanted.description
        body["response_format"]["json_schema"] = schema
