"""The OpenAI backend against the fake: every stream is complete or an error, and bodies arrive as meant."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import date
from typing import Any

import pytest

from backends.base import Chat, Complete, Draw, Embed, Rerank, Speak, Timeouts, Tokenize, Transcribe, Upstream
from backends.http import HttpClient
from backends.openai.backend import OpenAIBackend
from backends.openai.documents import classifications, rerank_results
from backends.openai.models import rows_from_models
from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.chat import ChatRequest
from backends.wire.classify import ClassifyRequest
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.images import ImageRequest
from backends.wire.rerank import RerankRequest
from catalog.errors import (
    ContextLengthExceeded,
    FirstByteTimeout,
    InvalidRequest,
    RoundhouseError,
    StreamBroken,
    UnsupportedParameter,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamUnreachable,
)
from catalog.model import Endpoint
from tests.backends.answers import assemble_chat, assemble_completion
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI(key="sk-right") as server:
        yield server


@pytest.fixture
async def backend() -> AsyncIterator[OpenAIBackend]:
    async with HttpClient() as http:
        yield OpenAIBackend(http)


@pytest.fixture
def upstream(fake: FakeOpenAI) -> Upstream:
    return Upstream("fake", "openai", fake.base_url, "fake-chat", api_key="sk-right")


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate(
        {"model": "any", "messages": [{"role": "user", "content": "Hi there"}], **fields}
    )


def at(upstream: Upstream, model: str) -> Upstream:
    return Upstream("fake", "openai", upstream.base_url, model, api_key=upstream.api_key)


TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("one", "two")
]


def test_its_capabilities_are_its_types() -> None:
    backend = OpenAIBackend(HttpClient())
    for protocol in (Chat, Complete, Embed, Rerank, Transcribe, Speak, Draw):
        assert isinstance(backend, protocol)
    assert not isinstance(backend, Tokenize)


# ---- chat


async def test_an_answer_of_unknown_length_is_streamed_with_usage_also_for_a_plain_request(
    fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream
) -> None:
    answer = await assemble_chat(backend.chat(upstream, chat(stream=False, temperature=0.5)))
    assert answer["choices"][0]["message"]["content"] == fake.reply
    assert answer["usage"]["completion_tokens"] == 9
    sent = (await fake.call()).body
    assert sent["model"] == "fake-chat"
    assert sent["stream"] is True
    assert sent["stream_options"] == {"include_usage": True}
    assert sent["temperature"] == 0.5


async def test_a_short_answer_is_asked_for_plainly_and_says_the_same(
    fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream
) -> None:
    for changes in ({}, {"n": 2}, {"tools": TOOLS, "tool_choice": "required"}, {"logprobs": True}):
        streamed = await assemble_chat(backend.chat(upstream, chat(stream=True, max_tokens=50, **changes)))
        plain = await assemble_chat(backend.chat(upstream, chat(stream=False, max_tokens=50, **changes)))
        for choice in plain["choices"]:
            assert choice["message"].pop("annotations") == []  # streams have no place for them
        assert {**plain, "id": "", "created": 0} == {**streamed, "id": "", "created": 0}
        assert "stream" not in fake.calls[-1].body
        assert "stream_options" not in fake.calls[-1].body


async def test_a_plain_answer_that_is_none_or_not_whole_is_an_error(
    fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream
) -> None:
    for fault, error in (
        (Fault(bad_json=True), UpstreamProtocolError),
        (Fault(die_after=-1), UpstreamUnreachable),
    ):
        fake.fault = fault
        with pytest.raises(error):
            await assemble_chat(backend.chat(upstream, chat(max_tokens=5)))


async def test_leaving_a_plain_call_closes_the_upstream_at_once(
    fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream
) -> None:
    fake.script(Fault(delay=5))
    task = asyncio.create_task(assemble_chat(backend.chat(upstream, chat(max_tokens=5))))
    call = await fake.call()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await call.left()


async def test_a_plain_call_that_stalls_is_a_first_byte_timeout(fake: FakeOpenAI, backend: OpenAIBackend) -> None:
    fake.script(Fault(delay=30))
    slow = Upstream(
        "fake", "openai", fake.base_url, "fake-chat", api_key="sk-right", timeouts=Timeouts(first_byte=0.5)
    )
    with pytest.raises(FirstByteTimeout):
        await assemble_chat(backend.chat(slow, chat(max_tokens=1)))
    assert "stream" not in fake.calls[-1].body


async def test_the_usage_chunk_is_last_and_alone(backend: OpenAIBackend, upstream: Upstream) -> None:
    chunks = [chunk async for chunk in backend.chat(upstream, chat(n=2))]
    assert [bool(chunk.get("usage")) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["choices"] == []
    finishes = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert finishes == ["stop", "stop"]


async def test_tool_calls_logprobs_and_refusals_are_assembled(
    fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream
) -> None:
    answer = await assemble_chat(backend.chat(upstream, chat(tools=TOOLS, tool_choice="required")))
    message = answer["choices"][0]["message"]
    assert [(call["id"], call["function"]["name"]) for call in message["tool_calls"]] == [
        ("call_0_0", "one"),
        ("call_0_1", "two"),
    ]
    assert message["content"] is None
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    answer = await assemble_chat(backend.chat(upstream, chat(logprobs=True, top_logprobs=1)))
    assert len(answer["choices"][0]["logprobs"]["content"]) == 9
    fake.script(Fault(refuse=True))
    answer = await assemble_chat(backend.chat(upstream, chat()))
    assert answer["choices"][0]["message"]["refusal"] == "I cannot help with that."


async def test_a_server_that_ignores_stream_is_answered_in_chunks_all_the_same(
    fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream
) -> None:
    streamed = await assemble_chat(backend.chat(upstream, chat(tools=TOOLS)))
    fake.streams = False
    plain = await assemble_chat(backend.chat(upstream, chat(tools=TOOLS)))
    assert plain["choices"][0]["message"]["tool_calls"] == streamed["choices"][0]["message"]["tool_calls"]
    assert plain["usage"] == streamed["usage"]
    text = await assemble_completion(
        backend.complete(upstream, CompletionRequest.model_validate({"model": "m", "prompt": "a"}))
    )
    assert text["choices"][0]["text"] == fake.reply


@pytest.mark.parametrize("after", range(11))
async def test_a_stream_cut_before_its_finish_reason_is_broken(
    fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream, after: int
) -> None:
    for fault in (Fault(cut_after=after), Fault(die_after=after)):
        fake.script(fault)
        with pytest.raises(StreamBroken):
            await assemble_chat(backend.chat(upstream, chat()))


async def test_malformed_events_are_a_protocol_error(
    fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream
) -> None:
    fake.script(Fault(malformed_after=3))
    with pytest.raises(UpstreamProtocolError):
        await assemble_chat(backend.chat(upstream, chat()))


async def test_a_prompt_that_does_not_fit_names_the_field(
    fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream
) -> None:
    fake.context = 2
    with pytest.raises(ContextLengthExceeded) as raised:
        await assemble_chat(backend.chat(upstream, chat()))
    assert (raised.value.limit, raised.value.requested, raised.value.param) == (2, 5, "messages")


async def test_leaving_a_chat_closes_the_upstream_at_once(
    fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream
) -> None:
    fake.script(Fault(stall_after=2))
    async with aclosing(backend.chat(upstream, chat())) as chunks:
        await anext(chunks)
    await (await fake.call()).left()


async def test_a_rate_limit_comes_with_its_wait(
    fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream
) -> None:
    fake.script(Fault(status=429, headers={"Retry-After": "7"}))
    with pytest.raises(UpstreamRateLimited) as raised:
        await assemble_chat(backend.chat(upstream, chat()))
    assert raised.value.retry_after == 7


# ---- the other endpoints


async def test_completions(fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream) -> None:
    request = CompletionRequest.model_validate(
        {"model": "m", "prompt": ["a", "b"], "n": 2, "echo": True, "logprobs": 1, "max_tokens": 2}
    )
    answer = await assemble_completion(backend.complete(upstream, request))
    assert [choice["text"] for choice in answer["choices"]] == ["aThe quick"] * 2 + ["bThe quick"] * 2
    assert answer["choices"][0]["logprobs"]["text_offset"] == [0, 1, 4]
    assert (await fake.call()).body["max_tokens"] == 2


@pytest.mark.parametrize("given", [["one", "two"], [[1, 2], [3]]])
async def test_embeddings_come_in_the_encoding_asked_for(
    backend: OpenAIBackend, upstream: Upstream, given: list[Any]
) -> None:
    there = at(upstream, "fake-embed")
    floats = await backend.embed(there, EmbeddingRequest.model_validate({"model": "m", "input": given}))
    packed = await backend.embed(
        there, EmbeddingRequest.model_validate({"model": "m", "input": given, "encoding_format": "base64"})
    )
    for plain, coded in zip(floats["data"], packed["data"], strict=True):
        assert struct.unpack("<8f", base64.b64decode(coded["embedding"])) == pytest.approx(plain["embedding"])


async def test_dimensions_that_the_server_ignores_are_refused(
    fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream
) -> None:
    request = EmbeddingRequest.model_validate({"model": "m", "input": "a", "dimensions": 16})
    there = at(upstream, "fake-embed")
    assert len((await backend.embed(there, request))["data"][0]["embedding"]) == 16
    fake.fixed_dimensions = True
    with pytest.raises(UnsupportedParameter, match="8 dimensions only"):
        await backend.embed(there, request)


async def test_rerank_orders_by_score(backend: OpenAIBackend, upstream: Upstream) -> None:
    request = RerankRequest.model_validate(
        {"model": "m", "query": "red fox", "documents": ["a blue dog", {"text": "the red fox"}, "red"], "top_n": 2}
    )
    answer = await backend.rerank(at(upstream, "fake-rerank"), request)
    assert [(row["index"], row["relevance_score"]) for row in answer["results"]] == [(1, 1.0), (2, 0.5)]


def test_what_a_worker_says_of_its_scores_and_of_what_it_cut_is_passed_on(upstream: Upstream) -> None:
    told = {"scoring": "similarity", "truncated": [0]}
    ranked = rerank_results(
        {"results": [{"index": 0, "relevance_score": 0.5}], **told},
        RerankRequest.model_validate({"model": "m", "query": "q", "documents": ["a"]}),
        upstream,
    )
    said = [{"label": "a", "score": 0.5}, {"label": "b", "score": 0.5}]
    classified = classifications(
        {"data": [{"index": 0, "predictions": said}], **told},
        ClassifyRequest.model_validate({"model": "m", "input": "t", "labels": ["a", "b"]}),
        upstream,
    )
    for answer in (ranked, classified):
        assert {name: answer[name] for name in told} == told


async def test_a_document_without_text_is_refused(backend: OpenAIBackend, upstream: Upstream) -> None:
    request = RerankRequest.model_validate({"model": "m", "query": "q", "documents": [{"title": "no"}]})
    with pytest.raises(InvalidRequest, match="Document 0"):
        await backend.rerank(at(upstream, "fake-rerank"), request)


async def test_a_classification_has_the_probabilities_in_the_order_of_the_labels(
    backend: OpenAIBackend, upstream: Upstream
) -> None:
    request = ClassifyRequest.model_validate(
        {"model": "m", "input": ["a red fox", {"text": "blue"}], "labels": ["blue", "red fox"]}
    )
    answer = await backend.classify(at(upstream, "fake-classify"), request)
    assert answer["data"] == [{"index": 0, "scores": [0.25, 0.75]}, {"index": 1, "scores": [2 / 3, 1 / 3]}]
    assert answer["scoring"] == "provider"
    assert answer["usage"] == {"total_tokens": 7}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "no classifications"),
        ({"data": []}, "differs from the number of texts"),
        ({"data": [{"index": 0, "predictions": [{"label": "a", "score": 1}]}]}, "without a score for each label"),
        ({"data": [{"index": 0, "label": "a", "probs": [1, 0]}]}, "without a score for each label"),
        (
            {"data": [{"index": 0, "predictions": [{"label": "a", "score": 7}, {"label": "b", "score": 1}]}]},
            r"outside \[0, 1\]",
        ),
    ],
)
def test_a_classification_that_is_none_is_an_error(upstream: Upstream, document: Any, message: str) -> None:
    request = ClassifyRequest.model_validate({"model": "m", "input": "t", "labels": ["a", "b"]})
    with pytest.raises(UpstreamProtocolError, match=message):
        classifications(document, request, upstream)


@pytest.mark.parametrize("form", ["json", "verbose_json", "srt"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_transcript_is_events_ending_in_the_whole(
    backend: OpenAIBackend, upstream: Upstream, form: str, stream: bool
) -> None:
    request = TranscriptionRequest.model_validate(
        {"model": "m", "file": b"RIFF", "response_format": form, "stream": stream}
    )
    events = [event async for event in backend.transcribe(at(upstream, "whisper-1"), request)]
    assert "".join(e["delta"] for e in events if e["type"] == "transcript.text.delta") == "The quick brown fox."
    assert events[-1]["type"] == "transcript.text.done"
    assert events[-1]["text"] == "The quick brown fox."
    assert ("segments" in events[-1]) == (form != "json")


async def test_speech_is_bytes_of_audio(backend: OpenAIBackend, upstream: Upstream, fake: FakeOpenAI) -> None:
    request = SpeechRequest.model_validate({"model": "m", "input": "Hi", "response_format": "wav"})
    audio = b"".join([chunk async for chunk in backend.speak(at(upstream, "tts-1"), request)])
    assert audio.startswith(b"RIFF")
    assert (await fake.call()).body == {
        "model": "tts-1",
        "input": "Hi",
        "response_format": "wav",
        "voice": "alloy",
    }


@pytest.mark.parametrize("fields", [{"n": 2}, {"stream": True, "partial_images": 1}])
async def test_images_are_events(backend: OpenAIBackend, upstream: Upstream, fields: dict[str, Any]) -> None:
    request = ImageRequest.model_validate({"model": "m", "prompt": "a dot", **fields})
    events = [event async for event in backend.draw(at(upstream, "gpt-image-1"), request)]
    kinds = [event["type"] for event in events]
    if "n" in fields:
        assert kinds == ["image_generation.completed"] * 2
    else:
        assert kinds == ["image_generation.partial_image", "image_generation.completed"]
    assert base64.b64decode(events[-1]["b64_json"]).startswith(b"\x89PNG")


async def test_models_are_listed_as_rows(backend: OpenAIBackend, upstream: Upstream) -> None:
    rows = await backend.list_models(upstream, Endpoint(id="lan", base_url=upstream.base_url))
    assert rows[0].id == "lan/fake-chat"


# ---- what a request may not do


@pytest.mark.parametrize("name", ["api_base", "base_url", "api_key", "extra_headers", "API-Key", "chat_template"])
async def test_a_request_cannot_name_an_address_or_a_key(
    fake: FakeOpenAI, backend: OpenAIBackend, upstream: Upstream, name: str
) -> None:
    with pytest.raises(InvalidRequest, match="cannot set"):
        await assemble_chat(backend.chat(upstream, chat(**{name: "http://evil"})))
    assert fake.calls == []


async def test_a_wrong_key_is_told_without_the_key(backend: OpenAIBackend, fake: FakeOpenAI) -> None:
    wrong = Upstream("fake", "openai", fake.base_url, "fake-chat", api_key="sk-wrong-key-000")
    with pytest.raises(RoundhouseError) as raised:
        await assemble_chat(backend.chat(wrong, chat()))
    assert raised.value.code == "upstream_rejected_key"
    assert "sk-wrong" not in raised.value.message


@pytest.mark.parametrize("listed", [None, "x", [1, {"id": 3}, {"id": ""}, {"id": "x" * 500}, {"id": "a b"}]])
def test_a_list_that_makes_no_sense_gives_no_rows(listed: object) -> None:
    lan = Endpoint(id="lan", base_url="http://10.0.0.2:8000/v1")
    assert rows_from_models(lan, {"data": listed}) == []
    assert rows_from_models(lan, {}) == []


def test_the_names_under_which_another_roundhouse_routes_are_no_models() -> None:
    lan = Endpoint(id="lan", base_url="http://10.0.0.2:8000/v1")
    listed = [{"id": "auto", "router": True}, {"id": "auto:fast", "router": True}, {"id": "auto"}, {"id": "m"}]
    rows = rows_from_models(lan, {"data": listed})
    assert ([row.id for row in rows], rows.unusable) == (["lan/m"], 1)


def test_the_context_that_vllm_adds_becomes_the_rows() -> None:
    lan = Endpoint(id="lan", base_url="http://10.0.0.2:8000/v1")
    (row,) = rows_from_models(lan, {"data": [{"id": "Qwen/Qwen3-8B", "max_model_len": 4096}]})
    assert (row.id, row.limits.context_window) == ("lan/Qwen/Qwen3-8B", 4096)


@pytest.mark.parametrize(
    ("told", "ends"),
    [("2026-12-11", date(2026, 12, 11)), (None, None), ("soon", None), (20261211, None), ("", None)],
)
def test_the_day_on_which_openai_shuts_a_model_down_is_its_end(told: object, ends: date | None) -> None:
    cloud = Endpoint(id="cloud", base_url="http://10.0.0.2:8000/v1")
    (row,) = rows_from_models(cloud, {"data": [{"id": "gpt-5", "shutdown_date": told}]})
    assert row.ends == ends
