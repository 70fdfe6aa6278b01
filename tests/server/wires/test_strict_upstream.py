"""A translated request has chat parameters only: a server that refuses all else answers it."""

from __future__ import annotations

from typing import Any

import pytest

from backends.base import Upstream
from backends.http import HttpClient
from backends.openai.backend import OpenAIBackend
from backends.openai.parameters import COMPATIBLE, OPENAI, OPENROUTER, table_at
from backends.wire.chat import TranslatedChat
from backends.wire.messages import CountTokensRequest, MessagesRequest
from backends.wire.responses import ResponsesRequest
from catalog.errors import InvalidRequest
from catalog.types import Json
from server.wires import messages, responses
from server.wires.responses.reasoning import sealed
from tests.fakes.openai_strict import StrictOpenAI

MARK: Json = {"cache_control": {"type": "ephemeral"}}
CLAUDE_CODE: Json = {
    "model": "m",
    "max_tokens": 50,
    "system": [{"type": "text", "text": "S", **MARK}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Hi", **MARK}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Claude's.", "signature": "s"},
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "No.", "is_error": True, **MARK}],
        },
    ],
    "tools": [{"name": "f", "input_schema": {"type": "object"}, "defer_loading": True, **MARK}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "metadata": {"user_id": "u"},
    "context_management": {"edits": []},
    "betas": ["x"],
    "container": "c",
    "mcp_servers": [],
    "speed": "fast",
    "inference_geo": "global",
    "service_tier": "standard_only",
    **MARK,
}
CODEX: Json = {
    "model": "m",
    "instructions": "I",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "D"}]},
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Hm."}],
            "encrypted_content": sealed([], "m"),
        },
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "No."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi", "prompt_cache_breakpoint": {}}]},
    ],
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
    "client_metadata": {"a": "b"},
    "context_management": [{"type": "compaction"}],
    "thinking": {"type": "enabled"},
    "prompt_cache_key": "k",
    "store": False,
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"verbosity": "low"},
    "include": ["reasoning.encrypted_content"],
}


def claude(**fields: Any) -> TranslatedChat:
    return messages.to_chat(MessagesRequest.model_validate({**CLAUDE_CODE, **fields}))


def codex(**fields: Any) -> TranslatedChat:
    return responses.to_chat(ResponsesRequest.model_validate({**CODEX, **fields}))


@pytest.mark.parametrize("chat", [claude(), codex()], ids=["messages", "responses"])
async def test_a_server_that_refuses_unknown_fields_answers_what_agents_send(chat: TranslatedChat) -> None:
    async with StrictOpenAI() as fake, HttpClient() as http:
        fake.also = COMPATIBLE.marks
        upstream = Upstream("far", "openai", fake.base_url, "fake-chat")
        backend = OpenAIBackend(http)
        assert [chunk async for chunk in backend.chat(upstream, chat)]
        (call,) = fake.calls
        assert call.body["messages"][0]["role"] == "system"
        assert call.body["tools"][0]["function"]["name"] == "f"


@pytest.mark.parametrize("chat", [claude(), codex()], ids=["messages", "responses"])
async def test_openai_itself_is_not_sent_other_providers_reasoning(chat: TranslatedChat) -> None:
    class AtOpenAI(OpenAIBackend):
        def parameters(self, upstream: Upstream) -> Any:
            return OPENAI

    async with StrictOpenAI() as fake, HttpClient() as http:
        upstream = Upstream("far", "openai", fake.base_url, "fake-chat")
        assert [chunk async for chunk in AtOpenAI(http).chat(upstream, chat)]
        assert "messages.reasoning_content" in AtOpenAI(http).dropped(chat, upstream)


async def test_all_that_is_left_out_is_named() -> None:
    backend = OpenAIBackend(HttpClient())
    upstream = Upstream("far", "openai", "http://127.0.0.1:1/v1", "fake-chat")
    chat = claude()
    assert set(chat.left_out) == {
        "context_management", "betas", "container", "mcp_servers", "messages.thinking",
    }  # fmt: skip
    assert set(backend.dropped(chat, upstream)) == {
        "cache_control", "speed", "service_tier", "thinking",
        "messages.cache_control", "messages.is_error",
    }  # fmt: skip
    assert set(codex().left_out) == {"client_metadata", "context_management", "thinking"}


def test_openrouter_is_sent_cache_marks() -> None:
    assert table_at("https://openrouter.ai/api/v1") is OPENROUTER
    assert "cache_control" in OPENROUTER.marks


def test_parameters_of_engines_and_of_the_gateway_go_along() -> None:
    fields = {"grammar": "g", "routing": {"mode": "fast"}, "chat_template_kwargs": {"enable_thinking": False}}
    for chat in (claude(**fields), codex(**fields)):
        wire = chat.to_wire()
        assert {name: wire.get(name) for name in fields} == fields


def test_a_field_that_chats_refuse_is_named_as_the_caller_wrote_it() -> None:
    with pytest.raises(InvalidRequest) as refused:
        codex(min_p=7)
    assert refused.value.param == "min_p"


def test_counting_tokens_leaves_out_the_same() -> None:
    body = {name: value for name, value in CLAUDE_CODE.items() if name != "max_tokens"}
    chat = messages.to_chat(CountTokensRequest.model_validate(body))
    assert "context_management" in chat.left_out


def test_a_call_that_a_program_made_is_told_from_one_of_the_models_own() -> None:
    for caller, lost in (({"type": "direct"}, False), ({"type": "code_execution_20250825", "tool_id": "x"}, True)):
        call = {"type": "tool_use", "id": "t1", "name": "f", "input": {}, "caller": caller}
        chat = claude(messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [call]}])
        assert ("messages.content.caller" in chat.left_out) == lost
