"""Translates a chat request into the body of ``POST /responses``. Source: OpenAI's API reference and SDK types.

The treatment of parameters is the one of chats at the same address (:mod:`backends.parameters`), without those
that the Responses API lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from backends.adapting.marks import lost_fields
from backends.base import Upstream
from backends.openai.efforts import efforts_of
from backends.openai.parameters import COMPATIBLE, OPENAI
from backends.openai.responses.items import to_items
from backends.parameters import OTHER_ANSWERS, ParameterTable, body_for, dropped_names, refuse_domains
from backends.translation import Dropped, TranslatedRequest, is_set
from backends.wire.chat import ChatRequest, WebSearchOptions
from backends.wire.responses import LEAST_OUTPUT, ResponsesRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

_LACKED = frozenset({"seed", "logit_bias", "frequency_penalty", "presence_penalty", "prediction"})
_REFUSED = {name: OTHER_ANSWERS[name] for name in ("modalities", "audio")}
_COUNTED = frozenset(
    {
        *("model", "input", "instructions", "conversation", "previous_response_id", "parallel_tool_calls"),
        *("personality", "reasoning", "text", "tools", "tool_choice", "truncation"),
    }
)
_UNSENT = frozenset({"n", *_REFUSED})
"""Names whose neutral values may be in a chat."""
_PLACED = frozenset(
    {
        *("user", "safety_identifier", "service_tier", "moderation"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    }
)
"""Fields beyond the type of a chat that a response has under the same name."""
_CHATS_NAMES: Mapping[str, str] = {
    "input": "messages",
    "instructions": "a system message",
    "max_output_tokens": "max_completion_tokens",
    "text": "response_format and verbosity",
    "include": "logprobs",
    "max_tool_calls": "web_search_options.max_uses",
}
"""The chat's own names of fields of a response."""
_RESPONSES_OWN = frozenset(ResponsesRequest.model_fields)
_KEPT_MARKS = frozenset({"thinking_blocks", "reasoning_content", "server_tool_calls"})
_KEPT_FIELDS = frozenset({"prompt_cache_breakpoint"})


def _without_lacked(table: ParameterTable) -> ParameterTable:
    return replace(
        table,
        drops=table.drops | _LACKED,
        renames={},
        marks=_KEPT_MARKS,
        unmarked=False,
        stops=None,
        refuses={**table.refuses, **_REFUSED},
        efforts=None if table.efforts is None else partial(efforts_of, wire="responses"),
        text_files=True,
        linked_files=True,
        tools=replace(table.tools, media_results=True, custom_tools=True),
    )


_OPENAI = _without_lacked(OPENAI)
_COMPATIBLE = _without_lacked(COMPATIBLE)


def translate(request: ChatRequest, upstream: Upstream, chats: ParameterTable) -> TranslatedRequest:
    """The body to send and the names of the dropped parameters; ``chats`` is the table of chats at this address.

    Nothing is stored there: the gateway keeps chats. Stop sequences are left to it, too. Raises InvalidRequest or
    a subclass for what no response has: several choices, and audio.
    """
    table = _OPENAI if chats is OPENAI else _COMPATIBLE
    if is_set(request, "n"):
        raise UnsupportedParameter("OpenAI's Responses API gives one choice; 'n' must be 1.", param="n")
    dropped = Dropped()
    search = request.web_search_options
    if search is not None or request.stop is not None:
        request = request.model_copy(update={"web_search_options": None, "stop": None})
    dropped.add(*dropped_names(request, upstream, table), *_lost(request))
    chat = body_for(request, upstream, table)
    chat = {name: value for name, value in chat.items() if value is not None and name not in _UNSENT}
    body: Json = {"model": chat.pop("model"), "input": to_items(chat.pop("messages"), upstream, dropped)}
    _output(chat, body, dropped)
    _tools(chat, body)
    if search is not None:
        _web_search(search, upstream, body)
    _text(chat, body)
    _reasoning(chat, body)
    _logprobs(chat, body)
    options = chat.pop("stream_options", {})
    if "include_obfuscation" in options:
        body["stream_options"] = {"include_obfuscation": options["include_obfuscation"]}
    body |= {**_placed(chat, upstream, dropped), "store": False, "stream": True}
    if upstream.reasons:
        body.setdefault("include", []).append("reasoning.encrypted_content")
    if search is not None:
        body.setdefault("include", []).append("web_search_call.action.sources")
    return TranslatedRequest(body, dropped.as_tuple())


def _lost(request: ChatRequest) -> list[str]:
    """The fields of messages and tools that no item has; those of a function go along."""
    return [name for name in lost_fields(request, _KEPT_FIELDS) if not name.startswith("tools.function.")]


def _placed(chat: Json, upstream: Upstream, dropped: Dropped) -> Json:
    """The fields of a chat that a response has, too; the others are reported.

    Raises UnsupportedParameter for a field that a response alone has: a chat has no prompt, limits or stored
    context beside its own.
    """
    kept: Json = {}
    for name, value in chat.items():
        if name in ChatRequest.model_fields or name in _PLACED:
            kept[name] = value
        elif name in _RESPONSES_OWN:
            own = f"use {_CHATS_NAMES[name]} in a chat, or ask" if name in _CHATS_NAMES else "ask"
            raise UnsupportedParameter(
                f"'{name}' is a field of the Responses API, not of chats; {own} POST /v1/responses.", param=name
            )
        elif name in (upstream.parameters or ()):
            kept[name] = value  # the operator's word that this server takes it
        else:
            dropped.add(name)
    return kept


def counted_body(body: Json) -> Json:
    """The part of a body that its prompt tokens depend on; OpenAI takes nothing else when it counts."""
    return {name: value for name, value in body.items() if name in _COUNTED}


def _output(chat: Json, body: Json, dropped: Dropped) -> None:
    given = {name: chat.pop(name) for name in ("max_completion_tokens", "max_tokens") if name in chat}
    if not given:
        return
    name, most = min(given.items(), key=lambda limit: limit[1])
    body["max_output_tokens"] = max(most, LEAST_OUTPUT)
    if most < LEAST_OUTPUT:
        dropped.add(name)


def _tools(chat: Json, body: Json) -> None:
    tools = [_tool(tool) for tool in chat.pop("tools", ())]
    if tools:
        body["tools"] = tools
    if "tool_choice" in chat:
        body["tool_choice"] = _choice(chat.pop("tool_choice"))


def _tool(tool: Json) -> Json:
    if tool.get("type") == "custom":
        custom = tool.get("custom")
        if not isinstance(custom, dict) or not isinstance(custom.get("name"), str):
            raise UnsupportedParameter("A custom tool needs custom.name.", param="tools")
        made = {**custom, "type": "custom"}
        form = custom.get("format")
        if isinstance(form, dict) and isinstance(form.get("grammar"), dict):
            made["format"] = {"type": "grammar", **form["grammar"]}
        return made
    function = {name: value for name, value in tool["function"].items() if value is not None}
    # A response's tools are strict unless told otherwise, a chat's are not.
    return {"parameters": None, **function, "type": "function", "strict": bool(function.get("strict"))}


def _web_search(search: WebSearchOptions, upstream: Upstream, body: Json) -> None:
    """Add the hosted tool, whose place of the user is one level less deep than a chat's."""
    refuse_domains(search, upstream, "blocked_domains")
    tool: Json = {"type": "web_search"}
    if search.search_context_size is not None:
        tool["search_context_size"] = search.search_context_size
    if search.user_location is not None:
        place = search.user_location.approximate.model_dump(exclude_none=True)
        tool["user_location"] = {**place, "type": "approximate"}
    if search.filters is not None and search.filters.allowed_domains:
        tool["filters"] = {"allowed_domains": search.filters.allowed_domains}
    if search.max_uses is not None:
        body["max_tool_calls"] = search.max_uses
    body["tools"] = [*body.get("tools", ()), tool]


def _choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    match choice.get("type", "function"):
        case "allowed_tools" if isinstance(choice.get("allowed_tools"), dict):
            allowed = choice["allowed_tools"]
            tools = [_named(tool) for tool in allowed.get("tools") or ()]
            return {"type": "allowed_tools", "mode": allowed.get("mode", "auto"), "tools": tools}
        case _:
            return _named(choice)


def _named(choice: Json) -> Json:
    kind = choice.get("type", "function")
    inner = choice.get(kind)
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise UnsupportedParameter("tool_choice names a function or a custom tool.", param="tool_choice")
    return {"type": kind, "name": inner["name"]}


def _text(chat: Json, body: Json) -> None:
    wanted = chat.pop("response_format", None)
    text: Json = {}
    if wanted is not None:
        schema = wanted.get("json_schema") if wanted["type"] == "json_schema" else None
        text["format"] = {"type": wanted["type"]}
        if schema is not None:
            kept = {name: value for name, value in schema.items() if value is not None}
            text["format"] = {**kept, **text["format"], "strict": bool(schema.get("strict"))}
    if "verbosity" in chat:
        text["verbosity"] = chat.pop("verbosity")
    if text:
        body["text"] = text


def _reasoning(chat: Json, body: Json) -> None:
    """``reasoning``, the API's own object, may stand in a chat too: it is the way to ask for a summary."""
    given = chat.pop("reasoning", None)
    if given is not None and not isinstance(given, dict):
        raise InvalidRequest("'reasoning' must be an object, with 'effort' or 'summary'.", param="reasoning")
    reasoning = dict(given or {})
    if "reasoning_effort" in chat:
        reasoning["effort"] = chat.pop("reasoning_effort")
    if reasoning:
        body["reasoning"] = reasoning


def _logprobs(chat: Json, body: Json) -> None:
    wanted = chat.pop("logprobs", False)
    top = chat.pop("top_logprobs", None)
    if wanted:
        body["include"] = ["message.output_text.logprobs"]
        if top is not None:
            body["top_logprobs"] = top
