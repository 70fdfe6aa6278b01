"""Translates a request of Anthropic's Messages API into a chat request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from backends.adapting.schemas import is_closed
from backends.translation import NEUTRAL
from backends.wire.chat import Original, TranslatedChat
from backends.wire.messages import CountTokensRequest, InputMessage, MessagesRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from server.wires.messages.blocks import to_messages
from server.wires.messages.tools import add_choice, add_tools, members_called, paid_tools
from server.wires.translation import Losses, split_extras, validated

EFFORTS = ((2048, "low"), (8192, "medium"))
"""Reasoning effort by the largest thinking budget in tokens; above the last it is high. Our own choice."""


_ANTHROPICS = frozenset({"cache_control", "speed", "inference_geo", "service_tier"})
"""Fields that only Anthropic takes (``service_tier`` has other values elsewhere)."""
_FOREIGN = _ANTHROPICS | {"thinking"}


_CONSTRAINTS: Mapping[str, Callable[[Any], bool]] = {
    "inference_geo": lambda place: place not in (None, *NEUTRAL["inference_geo"]),
    "thread": bool,
    "billing_policy": lambda policy: isinstance(policy, dict) and policy.get("bill_to") not in (None, "self"),
}
"""Fields, with the values that no other provider can keep: the place of computation, a conversation that Anthropic
stores, the payer."""
_SUMMARISE = (
    "Write a summary of our conversation so far. It will stand in the place of the conversation, so keep all that "
    "is needed to go on: what I asked for, what was decided and why, what was done and found, names, paths and "
    "figures, and what is still to do. Answer with the summary alone."
)
_READ = frozenset({"output_format", "compaction"})
"""Fields beyond the type's that the translation reads."""
_OWN_TOOLS = frozenset({"mcp_servers", "container"})
"""Fields that give Anthropic's models tools of its own."""
_HEADERS = ("anthropic-version", "anthropic-beta")
_HEADER_VALUE = re.compile(r"[\w ,.:;=+/@-]{1,2000}", re.ASCII)
MAX_USER = 64
"""Characters of a user's id that OpenAI takes; a longer one is replaced by its digest, which has as many."""


def to_chat(
    request: MessagesRequest | CountTokensRequest,
    headers: Mapping[str, str] = MappingProxyType({}),
    query: Mapping[str, str] = MappingProxyType({}),
    *,
    searches: Callable[[str], bool] | None = None,
    withheld: str | None = None,
) -> TranslatedChat:
    """Translate the request; the chat is always streamed. Fields that no chat has are left out, and named.

    The chat keeps the request for Anthropic itself, which gets it as it is, with those of the caller's ``headers``
    and ``query`` that belong to its API. Other providers are not sent Anthropic's own tools. ``searches`` tells by
    a model's name whether it can search the web; without it, a request that wants a search is for models that can.
    ``withheld`` is an id that must not go to Anthropic. Raises :class:`InvalidRequest` for a malformed request.
    """
    losses = Losses()
    extras, left_out = split_extras(request.model_extra or {}, _ANTHROPICS)
    losses.add(*(name for name in left_out if name not in _READ))
    for name, binds in _CONSTRAINTS.items():
        if binds((request.model_extra or {}).get(name)):
            losses.refusal = losses.refusal or (f"'{name}' can be kept by Anthropic's models only.", name)
    body: Json = {**extras, "model": request.model, "stream": True}
    body["stream_options"] = {"include_usage": True}
    body["messages"] = to_messages(request.system, request.messages, losses)
    if not body["messages"]:
        body["messages"] = [{"role": "user", "content": ""}]
        losses.refusal = losses.refusal or ("The messages have nothing that this model can read.", "messages")
    if isinstance(request, MessagesRequest):
        body["max_completion_tokens"] = request.max_tokens or 1
        if not request.max_tokens:
            advice = "A 'max_tokens' of 0 fills the cache of Anthropic's models only; this model needs at least 1."
            losses.refusal = losses.refusal or (advice, "max_tokens")
        same = {name: getattr(request, name) for name in ("temperature", "top_p", "top_k")}
        body |= {name: value for name, value in same.items() if value is not None}
        if request.stop_sequences:
            body["stop"] = request.stop_sequences
        user = (request.metadata or {}).get("user_id")
        if isinstance(user, str) and user:
            body["user"] = user if len(user) <= MAX_USER else sha256(user.encode()).hexdigest()
    left_without = add_tools(request, body, losses, searches=searches)
    add_choice(request.tool_choice, body, left_without, losses)
    _thinking(request, body, losses)
    _format(request, body)
    if (compaction := compaction_of(request)) is not None:
        _summarise(compaction, body)
    own_tools = bool(left_without or members_called(request.tools) or not _OWN_TOOLS.isdisjoint(losses.names))
    extra = request.output_config.model_extra if request.output_config else None
    losses.add(*(f"output_config.{name}" for name, value in (extra or {}).items() if value is not None))
    given = {name: headers[name] for name in _HEADERS if name in headers}
    for name, value in given.items():
        if _HEADER_VALUE.fullmatch(value) is None:
            raise InvalidRequest(f"The header '{name}' has a value that is not valid.", param=name)
    beta = {"beta": "true"} if query.get("beta") == "true" else {}
    original = Original("messages", request, given, beta, losses.refusal, own_tools, paid_tools(request), withheld)
    return validated(body, losses.names, foreign=_FOREIGN, original=original)


def compaction_of(request: MessagesRequest | CountTokensRequest) -> Json | None:
    """The wish for a summary of the conversation in place of an answer. Raises InvalidRequest for another kind."""
    compaction = (request.model_extra or {}).get("compaction")
    if compaction is None:
        return None
    if not isinstance(compaction, dict) or compaction.get("type") != "summarize":
        raise InvalidRequest("'compaction' must be an object of the type 'summarize'.", param="compaction")
    return compaction


def _summarise(compaction: Json, body: Json) -> None:
    """Ask for the summary, in the caller's words if there are any, and for nothing else."""
    told = compaction.get("instructions")
    asked = told if isinstance(told, str) and told.strip() else _SUMMARISE
    body["messages"] = [*body["messages"], {"role": "user", "content": asked}]
    for name in ("response_format", "stop", "web_search_options"):
        body.pop(name, None)
    if "tools" in body:
        body["tool_choice"] = "none"


def _thinking(request: MessagesRequest | CountTokensRequest, body: Json, losses: Losses) -> None:
    """Set the reasoning effort, by a budget's size if there is one. The budget is for providers that take one."""
    effort = _effort_of_turn(request.messages) or (request.output_config.effort if request.output_config else None)
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


def _effort_of_turn(messages: Sequence[InputMessage]) -> str | None:
    """The effort that a system message sets for the user's turn beside it: all since the last finished answer."""
    answered = True
    for message in reversed(messages):
        if message.output_config is not None and message.output_config.effort is not None:
            return message.output_config.effort
        if message.role == "user":
            answered = not _is_result(message.content)
        elif message.role == "assistant" and answered:
            return None
    return None


def _is_result(content: Any) -> bool:
    return isinstance(content, list) and any(block.get("type") == "tool_result" for block in content)


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
