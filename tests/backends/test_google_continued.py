"""Gemini's answers that are longer than one request, and counts of prompts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from backends.base import Count, Upstream
from backends.google import GoogleBackend
from backends.google.stream import GeminiStream
from backends.http import HttpClient
from backends.streams.assemble import ChatAssembler
from catalog.types import Json
from tests.backends.test_google import THIRD, TOOL, asked, upstream
from tests.fakes.google import FakeGoogle, token_at


@pytest.fixture
async def fake() -> AsyncIterator[FakeGoogle]:
    async with FakeGoogle() as server:
        yield server


async def chunks_of(fake: FakeGoogle, **fields: Any) -> tuple[list[Json], Json]:
    there = Upstream(endpoint="g", protocol="google", base_url=fake.base_url, model=THIRD, api_key=fake.key)
    assembler = ChatAssembler()
    chunks: list[Json] = []
    async with HttpClient() as http:
        async for chunk in GoogleBackend(http).chat(there, asked(**fields)):
            assembler.add(chunk)
            chunks.append(chunk)
    return chunks, assembler.result()


async def test_an_answer_that_google_interrupts_goes_on_by_its_token(fake: FakeGoogle) -> None:
    fake.limit = 4
    chunks, answer = await chunks_of(fake)
    assert answer["choices"][0]["message"]["content"] == fake.reply
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert [call.body.get("continuationToken") for call in fake.calls] == [None, token_at(4), token_at(8)]
    assert {name for call in fake.calls[1:] for name in call.body} == {"contents", "continuationToken"}
    assert answer["usage"]["prompt_tokens"] == 3 * 10
    assert answer["usage"]["completion_tokens"] == 9
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 3 * 3
    assert sum(chunk["choices"][0]["finish_reason"] is not None for chunk in chunks if chunk["choices"]) == 1


async def test_a_continued_answer_keeps_to_the_callers_bound(fake: FakeGoogle) -> None:
    fake.limit = 4
    _, answer = await chunks_of(fake, max_tokens=50)
    assert [call.body["generationConfig"]["maxOutputTokens"] for call in fake.calls] == [50, 46, 42]
    assert answer["choices"][0]["finish_reason"] == "stop"
    fake.calls.clear()
    fake.limit = 2
    fake.reply = "One two three four five six."
    _, answer = await chunks_of(fake, max_tokens=2)
    assert len(fake.calls) == 1
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_an_interrupted_answer_without_a_new_token_is_cut_off_not_asked_for_again() -> None:
    stream = GeminiStream(upstream(), created=0)
    end = {"content": {"parts": [{"text": "So"}]}, "finishReason": "CONTINUATION", "continuationToken": "dG9r"}
    list(stream.feed({"candidates": [end]}))
    assert stream.paused
    assert stream.resume({"contents": []}) == {"contents": [], "continuationToken": "dG9r"}
    list(stream.feed({"candidates": [end]}))
    assert [stream.paused] == [False]
    told = list(stream.finish())
    assert [chunk["choices"][0]["finish_reason"] for chunk in told if chunk["choices"]] == ["length"]


async def test_several_choices_that_google_interrupts_are_cut_off() -> None:
    stream = GeminiStream(upstream(), created=0, resumes=False)
    for at in (0, 1):
        end = {"index": at, "finishReason": "CONTINUATION", "continuationToken": f"dG9{at}"}
        list(stream.feed({"candidates": [{**end, "content": {"parts": [{"text": "So"}]}}]}))
    assert not stream.paused
    ends = [chunk["choices"][0]["finish_reason"] for chunk in stream.finish() if chunk["choices"]]
    assert ends == ["length", "length"]


async def test_the_tokens_of_a_prompt_are_counted_with_its_instructions_and_tools(fake: FakeGoogle) -> None:
    there = Upstream(endpoint="g", protocol="google", base_url=fake.base_url, model=THIRD, api_key=fake.key)
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    async with HttpClient() as http:
        backend = GoogleBackend(http)
        assert isinstance(backend, Count)
        long = await backend.count(there, asked(messages=said, tools=[TOOL], max_tokens=5, temperature=0.5))
        short = await backend.count(there, asked())
    assert long["input_tokens"] > short["input_tokens"] > 0
    sent = fake.calls[0].body["generateContentRequest"]
    assert set(sent) == {"contents", "systemInstruction", "tools"}
