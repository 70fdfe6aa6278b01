"""Fuzzing: any request is translated into a body or refused with a typed 400, without an internal error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.anthropic.request import translate as to_anthropic
from backends.base import Upstream
from backends.google.request import translate as to_google
from backends.openai.parameters import COMPATIBLE, OPENAI
from backends.openai.responses.request import translate as to_response
from backends.parameters import ParameterTable
from backends.translation import TranslatedRequest
from backends.wire.chat import ChatRequest
from backends.wire.messages import MessagesRequest
from backends.wire.responses import ResponsesRequest
from catalog.errors import InvalidRequest
from catalog.types import Json
from server.wires import messages, responses

TYPES = st.sampled_from(
    [
        "text",
        "image",
        "document",
        "tool_use",
        "tool_result",
        "thinking",
        "redacted_thinking",
        "message",
        "function_call",
        "function_call_output",
        "reasoning",
        "input_text",
        "input_image",
        "input_file",
        "input_audio",
        "output_text",
        "refusal",
        "function",
        "custom",
        "allowed_tools",
        "tool",
        "any",
        "auto",
        "base64",
        "url",
        "content",
        "json_schema",
        "object",
        "image_url",
        "file",
        "json_object",
        "enabled",
        "adaptive",
        "disabled",
        "array",
        "web_search",
        "web_search_20250305",
        "web_search_call",
        "image_generation_call",
        "server_tool_use",
        "web_search_tool_result",
        "tool_search",
        "tool_search_output",
        "namespace",
        "shell",
        "shell_call",
        "client",
    ]
)
KEYS = st.sampled_from(
    [
        "text",
        "content",
        "role",
        "id",
        "call_id",
        "name",
        "arguments",
        "output",
        "source",
        "data",
        "media_type",
        "url",
        "input",
        "tool_use_id",
        "thinking",
        "signature",
        "cache_control",
        "summary",
        "encrypted_content",
        "image_url",
        "input_audio",
        "file",
        "file_data",
        "file_url",
        "properties",
        "items",
        "anyOf",
        "additionalProperties",
        "enum",
        "title",
        "extra_content",
        "google",
        "thought_signature",
        "tools",
        "mode",
        "function",
        "parameters",
        "strict",
        "schema",
        "json_schema",
        "prompt_cache_breakpoint",
        "detail",
        "thinking_blocks",
        "tool_calls",
        "tool_call_id",
        "refusal",
        "budget_tokens",
        "server_tool_calls",
        "images",
        "anthropic",
        "parts",
        "result",
        "user_location",
        "filters",
        "allowed_domains",
        "max_uses",
        "search_content_types",
        "description",
        "execution",
        "environment",
        "skills",
        "action",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5) | TYPES
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=10
)
TYPED = st.builds(lambda kind, rest: {**rest, "type": kind}, TYPES, st.dictionaries(KEYS, VALUES, max_size=5))
MESSAGE = st.builds(
    lambda role, content, rest: {**rest, "role": role, "content": content},
    st.sampled_from(["user", "assistant", "system", "developer", "tool"]),
    st.text(max_size=4) | st.lists(TYPED, max_size=3) | VALUES,
    st.dictionaries(KEYS, VALUES, max_size=3),
)


def over_responses(chats: ParameterTable) -> Callable[[ChatRequest, Upstream], TranslatedRequest]:
    return lambda request, upstream: to_response(request, upstream, chats)


FAR = Upstream("o", "openai", "http://127.0.0.1:1", "gpt-6", wire="responses", reasons=True)
UPSTREAMS = [
    (over_responses(OPENAI), FAR),
    (over_responses(COMPATIBLE), FAR),
    (to_anthropic, Upstream("a", "anthropic", "http://127.0.0.1:1", "claude-opus-5")),
    (to_anthropic, Upstream("a", "anthropic", "http://127.0.0.1:1", "claude-haiku-4-5")),
    (to_google, Upstream("g", "google", "http://127.0.0.1:1", "gemini-3-flash")),
    (to_google, Upstream("g", "google", "http://127.0.0.1:1", "gemini-2.5-pro")),
]
FUZZ = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def fields(*names: str) -> st.SearchStrategy[Json]:
    return st.dictionaries(st.sampled_from(names), VALUES | TYPED | st.lists(TYPED, max_size=2), max_size=3)


def survives(make: Callable[[], ChatRequest]) -> None:
    """Translate the request into every provider's body; a refusal must be a typed error."""
    try:
        request = make()
    except (ValidationError, InvalidRequest):
        return
    for translate, upstream in UPSTREAMS:
        with suppress(InvalidRequest):
            translate(request, upstream)


@FUZZ
@given(
    st.lists(MESSAGE, max_size=3),
    fields(
        "tools",
        "tool_choice",
        "response_format",
        "reasoning_effort",
        "thinking",
        "stop",
        "safety_settings",
        "web_search_options",
    ),
)
def test_chats(turns: list[Json], rest: Json) -> None:
    survives(lambda: ChatRequest.model_validate({"model": "m", "messages": turns, **rest}))


@FUZZ
@given(
    st.lists(MESSAGE | TYPED, max_size=3),
    fields(
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "include",
        "instructions",
        "metadata",
        "truncation",
        "modalities",
    ),
)
def test_responses(items: list[Json], rest: Json) -> None:
    survives(lambda: responses.to_chat(ResponsesRequest.model_validate({"model": "m", "input": items, **rest})))


@FUZZ
@given(
    st.lists(MESSAGE, max_size=3),
    fields("tools", "tool_choice", "system", "thinking", "output_config", "metadata", "modalities"),
)
def test_messages(turns: list[Json], rest: Json) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": turns, **rest}
    survives(lambda: messages.to_chat(MessagesRequest.model_validate(body)))
