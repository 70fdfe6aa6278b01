"""Ollama: chats and embeddings over its own API, or over ``/v1`` where that is missing, and the list of models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import ollama
import pytest
from openai.types.chat import ChatCompletion

from backends.base import Chat, Discover, Rerank, Upstream
from backends.http import HttpClient
from backends.ollama import OllamaBackend
from backends.ollama.backend import RECHECK
from backends.ollama.discovery import rows_from_tags
from backends.ollama.request import translate
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from catalog.errors import (
    AnswerInvalid,
    ContextLengthExceeded,
    InvalidRequest,
    RoundhouseError,
    StreamBroken,
    UnsupportedParameter,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
)
from catalog.model import Capability, Endpoint, Size
from catalog.types import Json
from tests.backends.answers import assemble_chat
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai_chat import Answer
from tests.fakes.server import Fault

HERE = Upstream("ollama", "ollama", "http://127.0.0.1:1", "fake-chat")


@pytest.fixture
async def fake() -> AsyncIterator[FakeOllama]:
    async with FakeOllama() as server:
        yield server


@pytest.fixture
async def backend() -> AsyncIterator[OllamaBackend]:
    async with HttpClient() as http:
        yield OllamaBackend(http)


@pytest.fixture(params=["", "/", "/v1"])
def upstream(fake: FakeOllama, request: pytest.FixtureRequest) -> Upstream:
    return Upstream("ollama", "ollama", fake.origin + request.param, "fake-chat")


def test_it_has_what_ollama_has() -> None:
    backend = OllamaBackend(HttpClient())
    assert isinstance(backend, Chat)
    assert isinstance(backend, Discover)
    assert not isinstance(backend, Rerank)


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


async def test_a_chat_goes_to_ollamas_own_api_with_its_options(
    fake: FakeOllama, backend: OllamaBackend, upstream: Upstream
) -> None:
    request = chat(
        max_completion_tokens=3,
        temperature=0.5,
        top_k=5,
        repetition_penalty=1.1,
        stop="zebra",
        keep_alive="10m",
        options={"num_ctx": 512, "top_k": 9},
        num_gpu=1,
        reasoning_effort="xhigh",
        logit_bias={"1": 2},
        user="u",
    )
    at = replace(upstream, options={"num_ctx": 8192, "num_thread": 2, "full_context_window": 1})
    answer = await assemble_chat(backend.chat(at, request))
    assert answer["choices"][0]["message"]["content"] == "The quick brown"
    assert answer["choices"][0]["finish_reason"] == "length"
    ChatCompletion.model_validate(answer)
    call = await fake.call()
    assert call.path == "/api/chat"
    assert call.body["options"] == {
        "num_ctx": 512,
        "num_thread": 2,
        "num_gpu": 1,
        "num_predict": 3,
        "temperature": 0.5,
        "top_k": 5,
        "repeat_penalty": 1.1,
        "stop": ["zebra"],
    }
    assert (call.body["keep_alive"], call.body["think"]) == ("10m", "high")
    assert backend.dropped(request, at) == ("reasoning_effort", "logit_bias", "user")
    assert answer["usage"]["durations"] == {"total": 2.0, "load": 0.5, "prompt_eval": 0.5, "eval": 1.0}
    assert answer["usage"]["total_tokens"] == 7


@pytest.mark.parametrize(
    ("fields", "think"),
    [
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, "low"),
        ({"think": True}, True),
        ({}, None),
    ],
)
def test_thinking_is_asked_for_as_ollama_does(fields: Json, think: object) -> None:
    assert translate(chat(**fields), HERE).body.get("think") == think


def test_a_model_is_kept_as_long_as_its_row_says_unless_the_caller_does() -> None:
    row = replace(HERE, options={"keep_alive": "1h"})
    assert translate(chat(), row).body["keep_alive"] == "1h"
    assert translate(chat(keep_alive=0), row).body["keep_alive"] == 0
    assert "options" not in translate(chat(), row).body


async def test_thoughts_come_as_reasoning_and_go_back_as_thinking(
    fake: FakeOllama, backend: OllamaBackend, upstream: Upstream
) -> None:
    fake.thoughts = "Hm."
    message = (await assemble_chat(backend.chat(upstream, chat(think=True))))["choices"][0]["message"]
    assert message["reasoning_content"] == "Hm."
    await assemble_chat(backend.chat(upstream, chat(messages=[message, {"role": "user", "content": "Go on."}])))
    assert fake.calls[-1].body["messages"][0]["thinking"] == "Hm."


async def test_a_schema_is_ollamas_format(fake: FakeOllama, backend: OllamaBackend, upstream: Upstream) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = await assemble_chat(backend.chat(upstream, chat(response_format=wanted)))
    assert answer["choices"][0]["message"]["content"] == '{"city": "Paris"}'
    assert fake.calls[-1].body["format"] == schema
    await assemble_chat(backend.chat(upstream, chat(response_format={"type": "json_object"})))
    assert fake.calls[-1].body["format"] == "json"
    assert backend.dropped(chat(guided_regex="a+"), upstream) == ("guided_regex",)


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
OTHER = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_a_call_that_must_be_made_is_bound_by_a_schema(
    fake: FakeOllama, backend: OllamaBackend, upstream: Upstream, choice: object
) -> None:
    request = chat(tools=[TOOL], tool_choice=choice, messages=[{"role": "system", "content": "Be brief."}])
    answer = await assemble_chat(backend.chat(upstream, request))
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert (call["function"], bool(call["id"])) == ({"name": "weather", "arguments": "{}"}, True)
    body = fake.calls[-1].body
    assert "tools" not in body
    assert isinstance(body["format"], dict)
    (system,) = body["messages"]
    assert system["content"].startswith("Be brief.\n\nYou can call")
    fake.calls_badly = True
    with pytest.raises(AnswerInvalid):
        await assemble_chat(backend.chat(upstream, request))


async def test_a_form_beside_tools_leaves_the_model_its_calls(
    fake: FakeOllama, backend: OllamaBackend, upstream: Upstream
) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    request = chat(tools=[TOOL], response_format=wanted)
    called = await assemble_chat(backend.chat(upstream, request))
    assert called["choices"][0]["finish_reason"] == "tool_calls"
    calls, content = fake.calls[-1].body["format"]["anyOf"]
    assert content["properties"]["content"] == schema
    fake.picks = 1
    told = await assemble_chat(backend.chat(upstream, request))
    assert told["choices"][0]["message"]["content"] == '{"city":"Paris"}'
    assert told["choices"][0]["finish_reason"] == "stop"
    assert "tool_calls" in calls["properties"]


async def test_one_call_at_a_time_is_kept_to_where_asked_for(backend: OllamaBackend, upstream: Upstream) -> None:
    both = await assemble_chat(backend.chat(upstream, chat(tools=[TOOL, OTHER])))
    assert len(both["choices"][0]["message"]["tool_calls"]) == 2
    one = await assemble_chat(backend.chat(upstream, chat(tools=[TOOL, OTHER], parallel_tool_calls=False)))
    assert [call["function"]["name"] for call in one["choices"][0]["message"]["tool_calls"]] == ["weather"]


def test_results_follow_the_order_of_the_calls_and_carry_their_names() -> None:
    calls = [
        {"id": name, "type": "function", "function": {"name": name, "arguments": '{"a": 1}'}}
        for name in ("x", "y")
    ]
    body = translate(
        chat(
            messages=[
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "tool_call_id": "y", "content": "2"},
                {"role": "tool", "tool_call_id": "x", "content": "1"},
            ]
        ),
        HERE,
    ).body
    assert body["messages"][1]["tool_calls"][0] == {"function": {"name": "x", "arguments": {"a": 1}}}
    assert [(m["tool_name"], m["content"]) for m in body["messages"][2:]] == [("x", "1"), ("y", "2")]


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


async def test_pictures_stay_with_their_text(fake: FakeOllama, backend: OllamaBackend, upstream: Upstream) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    content = [{"type": "text", "text": "What is it?"}, picture]
    await assemble_chat(backend.chat(upstream, chat(messages=[{"role": "user", "content": content}])))
    assert fake.calls[-1].body["messages"] == [{"role": "user", "content": "What is it?", "images": [PIXEL]}]
    picture["image_url"] = {"url": "https://example.com/a.png"}
    with pytest.raises(InvalidRequest):
        await assemble_chat(backend.chat(upstream, chat(messages=[{"role": "user", "content": content}])))


async def test_logprobs_are_openais(backend: OllamaBackend, upstream: Upstream) -> None:
    answer = await assemble_chat(backend.chat(upstream, chat(logprobs=True, top_logprobs=1)))
    first = answer["choices"][0]["logprobs"]["content"][0]
    assert (first["token"], first["logprob"], len(first["top_logprobs"])) == ("The", -0.25, 1)
    ChatCompletion.model_validate(answer)


@pytest.mark.parametrize("fields", [{"n": 2}, {"options": {"num_cats": 1}}, {"options": 7}])
def test_what_ollama_cannot_do_is_refused(fields: Json) -> None:
    with pytest.raises(InvalidRequest):
        translate(chat(**fields), HERE)


async def test_a_prompt_that_does_not_fit_is_refused_not_cut(
    fake: FakeOllama, backend: OllamaBackend, upstream: Upstream
) -> None:
    fake.context = 8
    with pytest.raises(ContextLengthExceeded) as refused:
        await assemble_chat(backend.chat(upstream, chat(messages=[{"role": "user", "content": "a " * 9}])))
    assert "8" in refused.value.message
    there = replace(upstream, model="fake-embed")
    with pytest.raises(ContextLengthExceeded) as refused:
        await backend.embed(there, EmbeddingRequest.model_validate({"model": "m", "input": "a " * 9}))
    assert refused.value.param == "input"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"error":"an error was encountered while running the model"}\n', UpstreamError),
        (b'{"error":"model is overloaded","status_code":503}\n', UpstreamOverloaded),
        (b'{"message":7,"done":true}\n', UpstreamProtocolError),
        (b"[]\n", UpstreamProtocolError),
        (b"", StreamBroken),
    ],
)
async def test_an_error_in_mid_stream_is_typed(
    fake: FakeOllama, backend: OllamaBackend, upstream: Upstream, line: bytes, error: type[RoundhouseError]
) -> None:
    whole = fake._lines

    def broken(body: Json, said: Answer, needed: int) -> Iterator[bytes]:
        yield next(whole(body, said, needed))
        yield line

    fake._lines = broken  # type: ignore[method-assign]
    chunks = backend.chat(upstream, chat())
    assert (await anext(chunks))["choices"]
    with pytest.raises(error):
        async for _ in chunks:
            pass


async def test_a_server_without_the_native_route_is_asked_over_v1_and_again_after_a_while(
    fake: FakeOllama, upstream: Upstream
) -> None:
    clock = 0.0
    fake.lacks = {"/api/chat", "/api/embed"}
    async with HttpClient() as http:
        backend = OllamaBackend(http, now=lambda: clock)
        for _ in range(2):
            await assemble_chat(backend.chat(upstream, chat(max_tokens=3)))
        await backend.embed(
            replace(upstream, model="fake-embed"), EmbeddingRequest.model_validate({"model": "m", "input": "a"})
        )
        assert backend.dropped(chat(top_k=3, keep_alive=1), upstream) == ("top_k", "keep_alive")
        clock, fake.lacks = RECHECK, set()
        await assemble_chat(backend.chat(upstream, chat()))
    paths = [call.path for call in fake.calls]
    assert paths == ["/api/chat", *["/v1/chat/completions"] * 2, "/v1/embeddings", "/api/chat"]


async def test_a_recording_goes_over_v1(fake: FakeOllama, backend: OllamaBackend, upstream: Upstream) -> None:
    part = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    await assemble_chat(backend.chat(upstream, chat(messages=[{"role": "user", "content": [part]}])))
    assert [call.path for call in fake.calls] == ["/v1/chat/completions"]


async def test_keep_alive_of_a_completion_is_told_after_it(
    fake: FakeOllama, backend: OllamaBackend, upstream: Upstream
) -> None:
    request = CompletionRequest.model_validate({"model": "m", "prompt": "Hi", "keep_alive": "10m"})
    assert [chunk async for chunk in backend.complete(upstream, request)]
    assert [call.path for call in fake.calls] == ["/v1/completions", "/api/generate"]
    assert fake.loaded == {"fake-chat": {"keep_alive": "10m"}}


async def test_embeddings(backend: OllamaBackend, fake: FakeOllama) -> None:
    there = Upstream("ollama", "ollama", fake.origin, "fake-embed")
    request = EmbeddingRequest.model_validate({"model": "m", "input": ["a", "b c"], "dimensions": 4, "user": "u"})
    answer = await backend.embed(there, request)
    assert [len(row["embedding"]) for row in answer["data"]] == [4, 4]
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert fake.calls[-1].path == "/api/embed"
    assert backend.dropped(request, there) == ("user",)
    with pytest.raises(UnsupportedParameter):
        await backend.embed(there, EmbeddingRequest.model_validate({"model": "m", "input": [1, 2]}))


async def test_the_rows_have_capabilities_and_the_context_with_which_a_model_runs(
    fake: FakeOllama, backend: OllamaBackend, upstream: Upstream
) -> None:
    server = Endpoint(id="lan", protocol="ollama", base_url=upstream.base_url)
    found, embedder = await backend.list_models(upstream, server)
    assert (found.id, embedder.id) == ("lan/fake-chat", "lan/fake-embed")
    assert embedder.capabilities == {Capability.EMBED}
    assert found.limits.context_window == 2048
    fake.loaded, fake.calls = {"fake-chat": {}}, []
    found, _ = await backend.list_models(upstream, server)
    assert found.limits.context_window == fake.context
    assert [call.path for call in fake.calls] == ["/api/tags", "/api/ps"], "details are kept with their digest"


@pytest.mark.parametrize("missing", ["/api/tags", "/api/show", "/api/ps"])
async def test_a_missing_route_costs_only_what_it_tells(
    fake: FakeOllama, backend: OllamaBackend, upstream: Upstream, missing: str
) -> None:
    fake.lacks, fake.loaded = {missing}, {"fake-chat": {}}
    server = Endpoint(id="lan", protocol="ollama", base_url=upstream.base_url)
    found, embedder = await backend.list_models(upstream, server)
    assert found.id == "lan/fake-chat"
    assert embedder.capabilities == {Capability.EMBED}
    assert Capability.CHAT in found.capabilities
    context = {"/api/tags": None, "/api/show": fake.context, "/api/ps": 2048}[missing]
    assert found.limits.context_window == context


async def test_a_server_that_lists_nowhere_gives_the_first_refusal(
    fake: FakeOllama, backend: OllamaBackend, upstream: Upstream
) -> None:
    server = Endpoint(id="lan", protocol="ollama", base_url=upstream.base_url)
    fake.script(Fault(status=500, message="no tags"), Fault(status=500, message="no models"))
    with pytest.raises(UpstreamError, match="no tags"):
        await backend.list_models(upstream, server)


def test_an_old_version_shows_its_abilities_in_template_and_families() -> None:
    listed = {"models": [{"model": "llava", "details": {"families": ["llama", "clip"]}}, {"model": "qwen"}]}
    details = {"qwen": {"template": "{{ if .Tools }}", "parameters": "stop a\nnum_ctx   16384\n"}}
    llava, qwen = rows_from_tags(Endpoint(id="lan", base_url="http://10.0.0.2:11434"), listed, details)
    assert llava.capabilities >= {Capability.CHAT, Capability.VISION}
    assert qwen.capabilities >= {Capability.CHAT, Capability.TOOLS}
    assert qwen.limits.context_window == 16384


def test_ollama_tells_family_size_quantisation_and_abilities() -> None:
    document = {
        "models": [
            {
                "name": "qwen3:8b",
                "model": "qwen3:8b",
                "size": 5_200_000_000,
                "details": {"family": "qwen3", "parameter_size": "8.2B", "quantization_level": "Q4_K_M"},
                "capabilities": ["completion", "tools", "thinking"],
            },
            {"name": "all-minilm:latest", "details": {"family": "bert"}},
        ]
    }
    chat, embedder = rows_from_tags(Endpoint(id="lan", base_url="http://10.0.0.2:11434"), document)
    assert (chat.id, chat.family) == ("lan/qwen3:8b", "qwen3")
    assert chat.size == Size(parameters=8_200_000_000, disk=5_200_000_000, quantization="Q4_K_M")
    assert chat.capabilities >= {Capability.CHAT, Capability.TOOLS, Capability.REASONING}
    assert embedder.capabilities == {Capability.EMBED}


@pytest.mark.parametrize(
    "listed", [None, "x", [1, {"name": 3}, {"name": ""}, {"name": "x" * 500}, {"name": "a b"}]]
)
def test_a_list_that_makes_no_sense_gives_no_rows(listed: object) -> None:
    lan = Endpoint(id="lan", base_url="http://10.0.0.2:11434")
    assert rows_from_tags(lan, {"models": listed}) == []
    assert rows_from_tags(lan, {}) == []


def test_a_model_with_facts_that_make_no_sense_spoils_only_itself() -> None:
    odd = {"model": "odd", "details": {"parameter_size": "1.2.3B"}}
    rows = rows_from_tags(Endpoint(id="lan", base_url="http://10.0.0.2:11434"), {"models": [odd, {"model": "m"}]})
    assert ([row.id for row in rows], rows.unusable) == (["lan/m"], 1)


async def test_ollamas_own_client_reads_the_fakes_lines_as_those_of_ollama(fake: FakeOllama) -> None:
    client = ollama.AsyncClient(host=fake.origin)
    try:
        parts = await client.chat(model="fake-chat", messages=[{"role": "user", "content": "Hi"}], stream=True)
        said = [part async for part in parts]
        assert "".join(part.message.content or "" for part in said) == fake.reply
        assert (said[-1].done_reason, said[-1].eval_count) == ("stop", 9)
        assert len((await client.embed(model="fake-embed", input=["a"])).embeddings) == 1
        assert [model.model for model in (await client.list()).models] == fake.models
        assert (await client.show("fake-embed")).capabilities == ["embedding"]
    finally:
        await client._client.aclose()
