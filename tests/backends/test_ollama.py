"""Ollama: calls over ``/v1``, lists and ``keep_alive`` over its own API."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from backends.base import Chat, Discover, Rerank, Upstream
from backends.http import HttpClient
from backends.ollama import OllamaBackend, rows_from_tags
from backends.wire.chat import ChatRequest
from backends.wire.embeddings import EmbeddingRequest
from catalog.model import Capability, Endpoint, Size
from tests.backends.answers import assemble_chat
from tests.fakes.ollama import FakeOllama


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


async def test_a_chat_goes_to_v1_without_what_ollama_ignores(
    fake: FakeOllama, backend: OllamaBackend, upstream: Upstream
) -> None:
    request = ChatRequest.model_validate(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_completion_tokens": 3,
            "logit_bias": {"1": 2},
            "n": 1,
            "user": "u",
        }
    )
    answer = await assemble_chat(backend.chat(upstream, request))
    assert answer["choices"][0]["message"]["content"] == "The quick brown"
    call = await fake.call()
    assert call.path == "/v1/chat/completions"
    assert call.body["max_tokens"] == 3
    assert not {"max_completion_tokens", "logit_bias", "n", "user"} & set(call.body)
    assert backend.dropped(request, upstream) == ("logit_bias", "user")


async def test_keep_alive_is_told_after_the_call(
    fake: FakeOllama, backend: OllamaBackend, upstream: Upstream
) -> None:
    request = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "keep_alive": "10m"}
    )
    await assemble_chat(backend.chat(upstream, request))
    assert [call.path for call in fake.calls] == ["/v1/chat/completions", "/api/generate"]
    assert fake.loaded == {"fake-chat": {"keep_alive": "10m"}}


async def test_embeddings(backend: OllamaBackend, fake: FakeOllama) -> None:
    there = Upstream("ollama", "ollama", fake.origin, "fake-embed")
    answer = await backend.embed(there, EmbeddingRequest.model_validate({"model": "m", "input": "a"}))
    assert len(answer["data"][0]["embedding"]) == 8


async def test_the_rows_have_capabilities_and_context(backend: OllamaBackend, upstream: Upstream) -> None:
    server = Endpoint(id="lan", protocol="ollama", base_url=upstream.base_url)
    chat, embedder = await backend.list_models(upstream, server)
    assert (chat.id, embedder.id) == ("lan/fake-chat", "lan/fake-embed")
    assert embedder.capabilities == {Capability.EMBED}
    assert chat.limits.context_window == 2048


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
