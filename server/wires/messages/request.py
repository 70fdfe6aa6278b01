"""Translates a request of Anthropic's Messages API into a chat request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType

from backends.adapting.schemas import is_closed
from backends.wire.chat import Original, TranslatedChat
from backends.wire.messages import CountTokensRequest, MessagesRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from server.wires.messages.blocks import to_messages
from server.wires.translation import Losses, split_extras, validated
from server.wires.web_search import OF_MESSAGES, from_messages

EFFORTS = ((2048, "low"), (8192, "medium"))
"""Reasoning effort by the largest thinking budget in tokens; above the last it is high. Our own choice."""


_ANTHROPICS = frozenset({"cache_control", "speed", "inference_geo", "service_tier"})
"""Fields that only Anthropic takes (``service_tier`` has other values elsewhere)."""
_FOREIGN = _ANTHROPICS | {"thinking"}


_CONSTRAINTS = ("inference_geo", "container", "mcp_servers", "thread", "compaction")
"""Fields that no other provider can keep: the place of computation, conversations and services at Anthropic."""
_HEADERS = ("anthropic-version", "anthropic-beta")
_HEADER_VALUE = re.compile(r"[\w ,.:;=+/@-]{1,2000}", re.ASCII)
MAX_USER = 64
"""Characters of a user's id that OpenAI takes; a longer one is replaced by its digest, which has as many."""


def to_chat(
    request: MessagesRequest | CountTokensRequest,
    headers: Mapping[str, str] = MappingProxyType({}),
    query: Mapping[str, str] = MappingProxyType({}),
) -> TranslatedChat:
    """Translate the request; the chat is always streamed. Fields that no chat has are left out, and named.

    The chat keeps the request for Anthropic itself, which gets it as it is, with those of the caller's ``headers``
    and ``query`` that belong to its API. Anthropic's own tools and uploaded files are for it alone. Raises
    :class:`InvalidRequest` for a malformed request.
    """
    losses = Losses()
    extras, left_out = split_extras(request.model_extra or {}, _ANTHROPICS)
    losses.add(*(name for name in left_out if name != "output_format"))
    for name in _CONSTRAINTS:
        if (request.model_extra or {}).get(name):
            losses.refusal = losses.refusal or (f"'{name}' can be kept by Anthropic's models only.", name)
    body: Json = {**extras, "model": request.model, "stream": True}
    body["stream_options"] = {"include_usage": True}
    body["messages"] = to_messages(request.system, request.messages, losses)
    if isinstance(request, MessagesRequest):
        body["max_completion_tokens"] = request.max_tokens
        same = {name: getattr(request, name) for name in ("temperature", "top_p", "top_k")}
        body |= {name: value for name, value in same.items() if value is not None}
        if request.stop_sequences:
            body["stop"] = request.stop_sequences
        user = (request.metadata or {}).get("user_id")
        if isinstance(user, str) and user:
            body["user"] = user if len(user) <= MAX_USER else sha256(user.encode()).hexdigest()
    _tools(request, body, losses)
    _tool_choice(request.tool_choice, body, losses)
    _thinking(request, body, losses)
    _format(request, body)
    given = {name: headers[name] for name in _HEADERS if name in headers}
    for name, value in given.items():
        if _HEADER_VALUE.fullmatch(value) is None:
            raise InvalidRequest(f"The header '{name}' has a value that is not valid.", param=name)
    beta = {"beta": "true"} if query.get("beta") == "true" else {}
    original = Original("messages", request, given, beta, losses.refusal)
    return validated(body, losses.names, foreign=_FOREIGN, original=original)


def _tools(request: MessagesRequest | CountTokensRequest, body: Json, losses: Losses) -> None:
    for position, tool in enumerate(request.tools or ()):
        with losses.refusing():
            if tool.get("type") in OF_MESSAGES:
                body["web_search_options"] = from_messages(tool, f"tools[{position}]", losses.add)
                continue
            body.setdefault("tools", []).append(_tool(tool, position))
            losses.add(*(f"tools.{name}" for name in tool.keys() - _TOOL if tool[name] is not None))


_TOOL = frozenset({"type", "name", "description", "strict", "input_schema", "cache_control"})


def _tool(tool: Json, position: int) -> Json:
    if tool.get("type") not in (None, "custom"):
        raise UnsupportedParameter(
            f"Only custom tools are supported by this model, not {str(tool.get('type'))[:80]!r}.",
            param=f"tools[{position}]",
        )
    function = {name: tool[name] for name in ("name", "description", "strict") if tool.get(name) is not None}
    function["parameters"] = tool.get("input_schema")
    mark = tool.get("cache_control")
    return {
        "type": "function",
        "function": function,
        **({"cache_control": mark} if isinstance(mark, dict) else {}),
    }


def _tool_choice(choice: Json | None, body: Json, losses: Losses) -> None:
    if choice is None:
        return
    if "web_search_options" in body and _names_search(choice, body):
        losses.add("tool_choice")
        return
    match choice.get("type"):
        case "auto" | "none" as kind:
            body["tool_choice"] = kind
        case "any":
            body["tool_choice"] = "required"
        case "tool":
            body["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
        case kind:
            raise InvalidRequest(f"Unknown tool_choice {str(kind)[:80]!r}.", param="tool_choice")
    if choice.get("disable_parallel_tool_use") is True:
        body["parallel_tool_calls"] = False
    if "tools" not in body and body["tool_choice"] in ("auto", "none"):
        del body["tool_choice"]


def _names_search(choice: Json, body: Json) -> bool:
    """Whether the choice forces a search, which other providers make when they see fit."""
    names = [tool["function"].get("name") for tool in body.get("tools", ())]
    return (choice.get("type") == "tool" and choice.get("name") not in names) or (
        choice.get("type") == "any" and not names
    )


def _thinking(request: MessagesRequest | CountTokensRequest, body: Json, losses: Losses) -> None:
    """Set the reasoning effort, by a budget's size if there is one. The budget is for providers that take one."""
    effort = request.output_config.effort if request.output_config else None
    thinking = request.thinking or {}
    match thinking.get("type"):
        case "disabled" | "between_tools":
            body["reasoning_effort"] = "none"
        case "enabled":
            budget = thinking.get("budget_tokens")
            if isinstance(budget, bool) or not isinstance(budget, int | float):
                raise InvalidRequest("thinking.budget_tokens must be a number.", param="thinking.budget_tokens")
            named = next((name for bound, name in EFFORTS if budget <= bound), "high")
            body["reasoning_effort"] = effort or named
            body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        case "adaptive":
            body["reasoning_effort"] = effort or "high"
        case None if effort:
            body["reasoning_effort"] = effort
        case None:
            pass
        case str(kind):
            with losses.refusing():
                raise UnsupportedParameter(
                    f"This model takes no thinking of the type {kind[:80]!r}.", param="thinking.type"
                )
        case _:
            raise InvalidRequest("thinking.type must be a string.", param="thinking.type")


def _format(request: MessagesRequest | CountTokensRequest, body: Json) -> None:
    wanted = request.output_config.format if request.output_config else None
    older = (request.model_extra or {}).get("output_format")
    if wanted is None and isinstance(older, dict):
        wanted = older
    if wanted is None:
        return
    if wanted.get("type") != "json_schema" or not isinstance(wanted.get("schema"), dict):
        raise InvalidRequest("output_config.format must be a json_schema.", param="output_config.format")
    schema = {"name": "answer", "schema": wanted["schema"], "strict": is_closed(wanted["schema"])}
    body["response_format"] = {"type": "json_schema", "json_schema": schema}
