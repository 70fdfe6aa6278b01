"""Bounds of an answer that a server ignores are kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from backends.openai.bounds import bounded
from backends.streams.assemble import ChatAssembler
from backends.wire.chat import ChatRequest
from catalog.types import Json

TOOL: Json = {"type": "function", "function": {"name": "f"}}


async def stream_of(chunks: Sequence[Json]) -> AsyncGenerator[Json]:
    for chunk in chunks:
        yield chunk


def said(delta: Json, reason: str | None = None, index: int = 0) -> Json:
    return {"id": "c", "choices": [{"index": index, "delta": delta, "finish_reason": reason}]}


async def answered(chunks: Sequence[Json], **fields: Any) -> Json:
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], **fields})
    whole = ChatAssembler()
    async for chunk in bounded(stream_of(chunks), request):
        whole.add(chunk)
    return whole.result()


@pytest.mark.parametrize("pieces", [["abc STOP def"], ["abc ST", "OP d", "ef"], ["abc ", "STOP", ""]])
async def test_text_ends_at_a_stop_sequence_and_the_usage_is_read(pieces: list[str]) -> None:
    chunks = [said({"content": piece}, index=at) for piece in pieces for at in (0, 1)]
    chunks += [said({}, "length"), said({}, "length", 1), {"id": "c", "choices": [], "usage": {"total_tokens": 9}}]
    answer = await answered(chunks, stop=["STOP", "zz"])
    assert answer["usage"] == {"total_tokens": 9}
    assert len(answer["choices"]) == 2
    for choice in answer["choices"]:
        assert (choice["message"]["content"], choice["finish_reason"]) == ("abc ", "stop")
        assert choice["stop_reason"] == "STOP"


async def test_text_that_only_begins_like_a_stop_sequence_is_whole() -> None:
    chunks = [said({"content": "abc ST"}), said({}, "length")]
    (choice,) = (await answered(chunks, stop="STOP"))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("abc ST", "length")
    kept = [said({"content": "abc STOP"}), said({}, "stop")]
    (choice,) = (await answered(kept, stop="STOP", include_stop_str_in_output=True))["choices"]
    assert choice["message"]["content"] == "abc STOP"


@pytest.mark.parametrize("parallel", [False, True])
async def test_one_call_at_a_time_is_the_first(*, parallel: bool) -> None:
    calls = [{"index": at, "id": f"c{at}", "function": {"name": "f", "arguments": "{}"}} for at in (0, 1)]
    chunks = [said({"tool_calls": [call]}) for call in calls] + [said({}, "tool_calls")]
    (choice,) = (await answered(chunks, tools=[TOOL], parallel_tool_calls=parallel))["choices"]
    assert [call["id"] for call in choice["message"]["tool_calls"]] == (["c0", "c1"] if parallel else ["c0"])
