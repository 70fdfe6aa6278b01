"""Vertex AI: its paths, its credentials, and the same translations as at Google and Anthropic."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.asking import AskedForms
from backends.base import Count, Discover, Embed, Upstream
from backends.clouds.vertex.addresses import model_path
from backends.clouds.vertex.backend import VertexBackend
from backends.google.request import translate
from backends.http import HttpClient
from backends.native import Native
from backends.streams.native import NativeChunk
from backends.wire.chat import ChatRequest, Original, TranslatedChat
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.messages import MessagesRequest
from catalog.clouds import CloudAccount
from catalog.errors import (
    CapabilityMismatch,
    EngineMissing,
    ModelUnavailable,
    UnsupportedParameter,
    UpstreamRateLimited,
    UpstreamRejectedKey,
    UpstreamUnreachable,
)
from catalog.model import Capability, Endpoint, UpstreamSource
from catalog.types import Json
from tests.fakes.server import Fault
from tests.fakes.vertex import PROJECT, REGION, SUBJECT_TOKEN, FakeVertex

GEMINI, CLAUDE, LLAMA = "gemini-3-flash", "claude-sonnet-5@20260101", "meta/llama-4-maas"
TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
BETA = "context-management-2025-06-27"
SENTENCE = "The quick brown fox jumps over the lazy dog."


class Vertex:
    """The fake, the backend, and an account whose credentials are in a file."""

    def __init__(self, fake: FakeVertex, http: HttpClient, file: Path) -> None:
        self.fake = fake
        self.backend = VertexBackend(http)
        self.file = file
        self.write(fake.service_account())

    def write(self, credentials: Json) -> None:
        self.file.write_text(json.dumps(credentials))

    def upstream(self, model: str = GEMINI, **fields: Any) -> Upstream:
        account = CloudAccount(region=REGION, project=PROJECT, credentials_file=str(self.file))
        return replace(
            Upstream(endpoint="v", protocol="vertex", base_url=self.fake.origin, model=model, cloud=account),
            **fields,
        )

    async def says(self, model: str = GEMINI, *, upstream: Upstream | None = None, **fields: Any) -> str:
        request = asked(**fields)
        chunks = [chunk async for chunk in self.backend.chat(upstream or self.upstream(model), request)]
        return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def embedding(**fields: Any) -> EmbeddingRequest:
    return EmbeddingRequest.model_validate({"model": "m", "input": ["one", "two words"], **fields})


@pytest.fixture
async def vertex(tmp_path: Path) -> AsyncIterator[Vertex]:
    async with FakeVertex() as fake, HttpClient() as http:
        yield Vertex(fake, http, tmp_path / "key.json")


# ---- models and paths


@pytest.mark.parametrize("model", [GEMINI, CLAUDE, LLAMA, "google/gemini-3-flash"])
async def test_a_chat_goes_to_the_maker_of_the_model_with_a_token(vertex: Vertex, model: str) -> None:
    assert await vertex.says(model) == SENTENCE
    call = vertex.fake.model_calls[0]
    assert call.headers["authorization"] == "Bearer ya29.fake-0"
    assert "x-goog-api-key" not in call.headers


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-3-flash", "/v1/projects/p/locations/eu/publishers/google/models/gemini-3-flash:m"),
        (
            "claude-opus-4@20250514",
            "/v1/projects/p/locations/eu/publishers/anthropic/models/claude-opus-4@20250514:m",
        ),
        ("anthropic/claude-x", "/v1/projects/p/locations/eu/publishers/anthropic/models/claude-x:m"),
        ("publishers/google/models/g", "/v1/projects/p/locations/eu/publishers/google/models/g:m"),
        ("projects/o/locations/l/endpoints/1", "/v1/projects/o/locations/l/endpoints/1:m"),
        ("endpoints/123", "/v1/projects/p/locations/eu/endpoints/123:m"),
        ("g/../../x", "/v1/projects/p/locations/eu/publishers/g/models/..%2F..%2Fx:m"),
    ],
)
def test_a_model_is_named_as_in_googles_sdk(model: str, path: str) -> None:
    upstream = Upstream("v", "vertex", "https://v", model, cloud=CloudAccount("eu", "p"))
    assert model_path(upstream, "m") == path
    pinned = replace(upstream, base_url="https://v/v1beta1/")
    assert model_path(pinned, "m") == path.removeprefix("/v1")


async def test_express_mode_has_a_key_and_no_project(vertex: Vertex) -> None:
    express = vertex.upstream(api_key="AIza-fake", cloud=CloudAccount(region=REGION))
    assert await vertex.says(upstream=express) == SENTENCE
    assert vertex.fake.calls[0].path == f"/v1/publishers/google/models/{GEMINI}:streamGenerateContent"
    assert "authorization" not in vertex.fake.calls[0].headers
    for model in (CLAUDE, LLAMA):
        with pytest.raises(ModelUnavailable, match="set 'project' of the endpoint 'v'"):
            await vertex.says(upstream=replace(express, model=model))


async def test_claude_has_its_version_in_the_body_and_its_betas_in_a_header(vertex: Vertex) -> None:
    await vertex.says(upstream=vertex.upstream(CLAUDE, headers={"anthropic-beta": "operators-own-1"}))
    call = vertex.fake.model_calls[0]
    assert call.body["anthropic_version"] == "vertex-2023-10-16"
    assert "model" not in call.body
    assert call.headers["anthropic-beta"] == "operators-own-1"


async def test_a_messages_request_to_claude_passes_as_it_is(vertex: Vertex) -> None:
    body = {
        "model": "m",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "Hi"}],
        "service_tier": "standard_only",
        "context_management": {"edits": []},
    }
    original = Original(
        "messages", MessagesRequest.model_validate(body), {"anthropic-beta": f"oauth-2025-04-20,{BETA}"}
    )
    chat = {"model": "m", "messages": body["messages"]}
    request = TranslatedChat.of(chat, (), frozenset(), original)
    upstream = vertex.upstream(CLAUDE)
    assert isinstance(vertex.backend, Native)
    assert vertex.backend.speaks("messages", upstream)
    assert not vertex.backend.speaks("messages", vertex.upstream(GEMINI))
    chunks = [chunk async for chunk in vertex.backend.chat(upstream, request)]
    assert all(isinstance(chunk, NativeChunk) for chunk in chunks[:1])
    sent = vertex.fake.model_calls[0]
    assert sent.body["context_management"] == {"edits": []}
    assert sent.headers["anthropic-beta"] == BETA, "Vertex AI refuses any that it does not have"
    assert "service_tier" not in sent.body
    assert vertex.backend.dropped(request, upstream) == ("service_tier", "anthropic-beta.oauth-2025-04-20")


async def test_a_residency_is_refused_and_fields_of_anthropics_own_servers_are_reported(vertex: Vertex) -> None:
    upstream = vertex.upstream(CLAUDE)
    assert "speed" in vertex.backend.dropped(asked(speed="fast"), upstream)
    with pytest.raises(UnsupportedParameter, match="region"):
        await vertex.says(CLAUDE, inference_geo="us")
    assert vertex.fake.calls == []


async def test_a_search_of_the_web_has_vertex_ais_form(vertex: Vertex) -> None:
    made = asked(web_search_options={"filters": {"blocked_domains": ["example.com"]}}, tools=[TOOL])
    sent = translate(made, vertex.upstream()).body
    assert sent["tools"][-1] == {"googleSearch": {"excludeDomains": ["example.com"]}}
    assert "includeServerSideToolInvocations" not in json.dumps(sent)


async def test_tokens_are_counted_by_gemini_and_claude_only(vertex: Vertex) -> None:
    assert isinstance(vertex.backend, Count)
    request = asked(max_tokens=5, temperature=0.5)
    assert await vertex.backend.count(vertex.upstream(GEMINI), request) == {"input_tokens": 1234}
    assert await vertex.backend.count(vertex.upstream(CLAUDE), request) == {"input_tokens": 4321}
    with pytest.raises(CapabilityMismatch):
        await vertex.backend.count(vertex.upstream(LLAMA), request)


# ---- partners' models at methods of their own


PARTNERS = ["mistralai/mistral-medium-3", "mistralai/codestral@2405", "ai21/jamba-large-1.6"]


@pytest.mark.parametrize("model", PARTNERS)
@pytest.mark.parametrize("plain", [False, True])
async def test_a_partners_model_is_asked_at_the_method_that_streams_or_the_one_that_does_not(
    vertex: Vertex, model: str, plain: bool
) -> None:
    upstream = vertex.upstream(model, asked=AskedForms())
    if plain:
        upstream.asked.learn("plain", instead_of="stream")
    assert await vertex.says(upstream=upstream, max_completion_tokens=50) == SENTENCE
    (call,) = vertex.fake.model_calls
    assert call.path.rpartition("/")[2].endswith(":rawPredict" if plain else ":streamRawPredict")
    assert call.body["model"] == model.partition("/")[2].partition("@")[0]


async def test_mistrals_parameters_have_its_names_and_others_are_named(vertex: Vertex) -> None:
    upstream = vertex.upstream("mistralai/mistral-medium-3")
    request = asked(seed=7, max_completion_tokens=50, user="u", logit_bias={"1": 2})
    assert await vertex.says(upstream=upstream, seed=7, max_completion_tokens=50, user="u") == SENTENCE
    (call,) = vertex.fake.model_calls
    assert (call.body["random_seed"], call.body["max_tokens"]) == (7, 50)
    assert set(vertex.backend.dropped(request, upstream)) == {"user", "logit_bias"}


# ---- the list of models


async def test_googles_own_models_are_found_over_all_pages(vertex: Vertex) -> None:
    vertex.fake.listed = ["gemini-3-flash", "imagen-4", "gemini-3-pro-image", "gemini-embedding-001"]
    vertex.fake.listed.append("gemini-2.0-flash")
    assert isinstance(vertex.backend, Discover)
    server = Endpoint(id="v", protocol="vertex", base_url=vertex.fake.origin, project=PROJECT, region=REGION)
    rows = await vertex.backend.list_models(vertex.upstream(""), server)
    found = {row.source.model: row.capabilities for row in rows if isinstance(row.source, UpstreamSource)}
    assert set(found) == {"gemini-3-flash", "gemini-3-pro-image", "gemini-embedding-001", "gemini-2.0-flash"}
    assert found["gemini-3-pro-image"] == {Capability.IMAGE, Capability.IMAGE_EDIT}
    assert found["gemini-embedding-001"] == {Capability.EMBED}
    assert {Capability.TOOLS, Capability.VISION, Capability.REASONING} <= found["gemini-3-flash"]
    assert Capability.REASONING not in found["gemini-2.0-flash"]
    assert [call.query.get("pageToken") for call in vertex.fake.model_calls] == [None, "2", "4"]


# ---- embeddings


@pytest.mark.parametrize(
    ("model", "methods"),
    [
        ("text-embedding-005", ["predict"]),
        ("gemini-embedding-001", ["batchEmbedContents"]),
        ("intfloat/multilingual-e5-small-maas", ["embedContent", "embedContent"]),
    ],
)
async def test_embeddings_go_to_the_method_that_the_model_has(
    vertex: Vertex, model: str, methods: list[str]
) -> None:
    assert isinstance(vertex.backend, Embed)
    request = embedding(dimensions=4, input_type="query")
    answer = await vertex.backend.embed(vertex.upstream(model), request)
    assert [len(row["embedding"]) for row in answer["data"]] == [4, 4]
    assert sum(value**2 for value in answer["data"][1]["embedding"]) == pytest.approx(1)
    calls = vertex.fake.model_calls
    assert [call.path.rpartition(":")[2] for call in calls] == methods
    assert "RETRIEVAL_QUERY" in json.dumps([call.body for call in calls])
    if methods != ["batchEmbedContents"]:
        assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


async def test_many_texts_are_embedded_in_batches(vertex: Vertex) -> None:
    request = embedding(input=["t"] * 260)
    assert len((await vertex.backend.embed(vertex.upstream("text-embedding-005"), request))["data"]) == 260
    assert [len(call.body["instances"]) for call in vertex.fake.model_calls] == [250, 10]


async def test_claude_does_not_embed(vertex: Vertex) -> None:
    with pytest.raises(CapabilityMismatch):
        await vertex.backend.embed(vertex.upstream(CLAUDE), embedding())


# ---- credentials


async def test_many_requests_share_one_token(vertex: Vertex) -> None:
    answers = await asyncio.gather(*(vertex.says(model) for model in (GEMINI, CLAUDE, LLAMA) * 5))
    assert answers == [SENTENCE] * 15
    assert vertex.fake.tokens == ["ya29.fake-0"]


async def test_a_token_near_its_end_is_renewed_beside_the_calls(vertex: Vertex) -> None:
    vertex.fake.lifetime = 60  # google-auth calls one stale less than 225 seconds before its end
    await vertex.says()
    vertex.fake.lifetime = 3600
    await vertex.says()
    async with asyncio.timeout(10):
        while len(vertex.fake.tokens) < 2:
            await asyncio.sleep(0.01)
    while vertex.backend._gemini._accounts.of(vertex.upstream())._renewal is not None:
        await asyncio.sleep(0.01)
    await vertex.says()
    used = [call.headers["authorization"] for call in vertex.fake.model_calls]
    assert used == ["Bearer ya29.fake-0", "Bearer ya29.fake-0", "Bearer ya29.fake-1"]


async def test_an_expired_token_is_not_sent(vertex: Vertex) -> None:
    vertex.fake.lifetime = 0
    await vertex.says()
    await vertex.says()
    assert [call.headers["authorization"] for call in vertex.fake.model_calls] == [
        "Bearer ya29.fake-0",
        "Bearer ya29.fake-1",
    ]


@pytest.mark.parametrize("model", [GEMINI, CLAUDE, LLAMA])
async def test_a_refused_token_is_replaced_in_the_next_call(vertex: Vertex, model: str) -> None:
    await vertex.says(model)
    vertex.fake.valid.clear()
    with pytest.raises(UpstreamRejectedKey):
        await vertex.says(model)
    assert await vertex.says(model) == SENTENCE
    assert vertex.fake.tokens == ["ya29.fake-0", "ya29.fake-1"]


async def test_a_workload_exchanges_its_own_token(vertex: Vertex, tmp_path: Path) -> None:
    subject = tmp_path / "subject"
    subject.write_text(SUBJECT_TOKEN)
    vertex.write(vertex.fake.workload_identity(subject))
    assert await vertex.says() == SENTENCE
    assert [call.path for call in vertex.fake.token_calls] == ["/sts"]


async def test_the_metadata_server_gives_a_token_on_googles_machines(
    vertex: Vertex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from google.auth.compute_engine import _metadata

    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "none"))
    host = vertex.fake.origin.removeprefix("http://")
    for name in ("_GCE_METADATA_HOST", "_GCE_DEFAULT_HOST"):
        monkeypatch.setattr(_metadata, name, host)
    monkeypatch.setattr(_metadata, "_GCE_DEFAULT_MDS_IP", host)
    monkeypatch.setenv("GCE_METADATA_IP", host)
    account = CloudAccount(region=REGION, project=PROJECT)
    assert await vertex.says(upstream=vertex.upstream(cloud=account)) == SENTENCE
    assert len(vertex.fake.tokens) == 1


async def test_application_default_credentials_are_found_by_their_variable(
    vertex: Vertex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(vertex.file))
    account = CloudAccount(region=REGION, project=PROJECT)
    assert await vertex.says(upstream=vertex.upstream(cloud=account)) == SENTENCE


async def test_refused_credentials_are_the_operators_problem_and_no_secret_is_told(vertex: Vertex) -> None:
    vertex.fake.token_status = 400
    with pytest.raises(UpstreamRejectedKey) as caught:
        await vertex.says()
    assert "planted" not in str(caught.value)
    assert vertex.fake.model_calls == []


async def test_a_token_server_that_is_away_is_unreachable(vertex: Vertex) -> None:
    vertex.write({**vertex.fake.service_account(), "token_uri": "http://127.0.0.1:1/token"})
    with pytest.raises(UpstreamUnreachable, match="token server"):
        await vertex.says()


@pytest.mark.parametrize("content", ['{"type": "unheard-of"}', '{"type": "service_account"}', "[]", "no json"])
async def test_a_file_that_holds_no_credentials_is_told_without_its_path(vertex: Vertex, content: str) -> None:
    vertex.file.write_text(content)
    with pytest.raises(ModelUnavailable, match="its credentials_file") as caught:
        await vertex.says()
    assert str(vertex.file) not in caught.value.message


async def test_without_the_package_the_error_says_what_to_install(
    vertex: Vertex, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "google.auth.transport.requests", None)
    with pytest.raises(EngineMissing, match=r"\[vertex\]") as caught:
        await vertex.says()
    assert caught.value.status == 404
    assert await vertex.says(upstream=vertex.upstream(api_key="AIza-fake")) == SENTENCE


# ---- errors


@pytest.mark.parametrize("model", [GEMINI, CLAUDE, LLAMA])
async def test_googles_errors_are_read_for_every_maker(vertex: Vertex, model: str) -> None:
    vertex.fake.script(Fault(), Fault(status=429, message="Quota exceeded for base_model: x"))
    with pytest.raises(UpstreamRateLimited) as caught:
        await vertex.says(model)
    assert caught.value.retry_after == 34.5
