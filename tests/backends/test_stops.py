"""Stop sequences: which one ended a text is told where the caller's API says it, and more than a server takes are
refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from backends.base import Upstream
from backends.google.request import translate as to_gemini
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend
from backends.local.stops import stopped
from backends.openai.parameters import COMPATIBLE, OPENAI
from backends.parameters import body_for
from backends.wire.chat import ChatRequest, TranslatedChat
from backends.wire.completions import CompletionRequest
from backends.wire.sampling import StreamOptions
from backends.workers.engines.common.chunks import PlainOutputParser, Token, chat_events, visible_pieces
from catalog.errors import UnsupportedParameter
from catalog.types import Json
from tests.backends.answers import assemble_chat
from tests.fakes.llama_server import FakeLlamaServer
from tests.fakes.server import Fault

HI: list[Json] = [{"role": "user", "content": "Hi"}]
FIVE = ["a", "b", "c", "d", "e"]


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeLlamaServer]:
    async with FakeLlamaServer(uds=tmp_path / "w.sock") as server:
        server.reply = "one two three four"
        yield server


def at(fake: FakeLlamaServer, engine: str | None = "llamacpp") -> Upstream:
    return Upstream(
        "w", "worker", "http://worker/v1", "local", uds=str(fake.uds), api_key="worker-key", engine=engine
    )


def asked(**fields: Any) -> Json:
    return {"model": "m", "messages": HI, **fields}


async def test_a_translated_chat_is_told_the_sequence_and_decoding_ends_there(fake: FakeLlamaServer) -> None:
    fake.fault = Fault(stall_after=4)  # it would never end by itself
    chat = TranslatedChat.of(asked(stop=["zz", "thr"]), (), frozenset())
    async with HttpClient() as http:
        answer = await assemble_chat(LocalWorkerBackend(http).chat(at(fake), chat))
    choice = answer["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two ", "stop")
    assert choice["stop_reason"] == "thr"
    assert answer["usage"]["prompt_tokens"] == 4
    assert 0 < answer["usage"]["completion_tokens"] < 5
    (call,) = fake.calls
    assert "stop" not in call.body, "the worker would cut the text without a word"
    await call.left()


async def test_a_translated_chat_without_a_match_ends_as_usual(fake: FakeLlamaServer) -> None:
    chat = TranslatedChat.of(asked(stop=["fourteen"]), (), frozenset())
    async with HttpClient() as http:
        answer = await assemble_chat(LocalWorkerBackend(http).chat(at(fake), chat))
    choice = answer["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two three four", "stop")
    assert "stop_reason" not in choice


async def test_a_plain_chat_leaves_any_number_of_sequences_to_the_worker(fake: FakeLlamaServer) -> None:
    async with HttpClient() as http:
        chat = ChatRequest.model_validate(asked(stop=[*FIVE[1:], "thr"]))
        await assemble_chat(LocalWorkerBackend(http).chat(at(fake), chat))
    assert fake.calls[0].body["stop"] == [*FIVE[1:], "thr"]


async def test_text_that_may_begin_a_sequence_comes_before_a_tool_call() -> None:
    async def chunks() -> AsyncGenerator[Json]:
        for delta in ({"content": "Let me see. EN"}, {"tool_calls": [{"index": 0}]}):
            yield {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}

    seen = [chunk["choices"][0]["delta"] async for chunk in stopped(chunks(), ["END"], lambda: None)]
    assert seen == [{"content": "Let me see. "}, {"content": "EN", "tool_calls": [{"index": 0}]}]


async def test_engines_of_our_own_tell_the_sequence() -> None:
    async def tokens() -> AsyncGenerator[Token]:
        for position, letter in enumerate("one two"):
            yield Token(ord(letter), 0.0, finish="stop" if position == 6 else None)

    pieces = visible_pieces(
        tokens(), decode=lambda ids: "".join(map(chr, ids)), prompt=[], stop=["zz", "tw"], logprobs=False
    )
    events = [
        orjson.loads(event[6:])
        async for event in chat_events(pieces, PlainOutputParser(), model="m", prompt_tokens=1)
        if not event.startswith(b"data: [DONE]")
    ]
    (last,) = [
        event["choices"][0] for event in events if event["choices"] and event["choices"][0]["finish_reason"]
    ]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", "tw")


@pytest.mark.parametrize("each", [True, False, None])
async def test_engines_of_our_own_count_on_every_delta_if_they_are_asked(each: bool | None) -> None:
    async def tokens() -> AsyncGenerator[Token]:
        for position, letter in enumerate("abc"):
            yield Token(ord(letter), 0.0, finish="stop" if position == 2 else None)

    options = None if each is None else StreamOptions.model_validate({"continuous_usage_stats": each})
    pieces = visible_pieces(
        tokens(), decode=lambda ids: "".join(map(chr, ids)), prompt=[], stop=None, logprobs=False
    )
    events = chat_events(pieces, PlainOutputParser(), model="m", prompt_tokens=5, options=options)
    chunks = [orjson.loads(sent[6:]) async for sent in events if not sent.startswith(b"data: [")]
    deltas = [chunk for chunk in chunks if chunk["choices"]][1:]
    assert len(deltas) >= 3
    counted: list[Any] = [(chunk.get("usage") or {}).get("completion_tokens") for chunk in deltas]
    assert each or counted == [None] * len(deltas)
    assert chunks[-1]["usage"] == {**chunks[-1]["usage"], "prompt_tokens": 5, "completion_tokens": 3}
    if each:
        assert (counted[0], counted[-1]) == (1, 3)
        assert all(before <= after for before, after in pairwise(counted))
        assert {chunk["usage"]["prompt_tokens"] for chunk in deltas} == {5}


def test_more_sequences_than_a_server_takes_are_refused_by_name() -> None:
    upstream = Upstream("far", "openai", "http://127.0.0.1:1/v1", "gpt")
    chat = ChatRequest.model_validate(asked(stop=FIVE))
    text = CompletionRequest.model_validate({"model": "m", "prompt": "a", "stop": FIVE})
    for request in (chat, text):
        with pytest.raises(UnsupportedParameter, match="at most 4 stop sequences") as refused:
            body_for(request, upstream, OPENAI)
        assert refused.value.param == "stop"
        assert body_for(request, upstream, COMPATIBLE)["stop"] == FIVE
    with pytest.raises(UnsupportedParameter, match="at most 5"):
        to_gemini(ChatRequest.model_validate(asked(stop=[*FIVE, "f"])), upstream)
    assert to_gemini(chat, upstream).body["generationConfig"]["stopSequences"] == FIVE
