"""``stream_options: {"continuous_usage_stats": true}``: the usage so far on every chunk."""

from __future__ import annotations

from catalog.types import Json
from tests.server.api.test_chat import BODY, events
from tests.server.conftest import Gateway
from tests.server.fakes import chunk, usage_chunk


def streamed(**options: bool) -> Json:
    return {**BODY, "stream": True, "stream_options": options}


async def told(gateway: Gateway, body: Json, path: str = "/v1/chat/completions") -> list[Json]:
    answer = await gateway.client.post(path, json=body)
    return [event for event in events(answer.text) if event != "[DONE]"]


async def test_chunks_have_an_estimate_and_the_last_has_the_models_figures(gateway: Gateway) -> None:
    *chunks, last = await told(gateway, streamed(include_usage=True, continuous_usage_stats=True))
    usages = [chunk["usage"] for chunk in chunks]
    assert [usage["completion_tokens"] for usage in usages] == [1, 2, 2]
    assert all(usage["estimated"] and usage["prompt_tokens"] > 0 for usage in usages)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def test_a_workers_own_figures_stand_as_they_are(gateway: Gateway) -> None:
    counted = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    gateway.backend.script = (chunk("Hi", usage=counted), chunk(finish="stop"), usage_chunk())
    first, second = await told(gateway, streamed(continuous_usage_stats=True))
    assert first["usage"] == counted
    assert second["usage"]["estimated"] is True


async def test_completions_have_them_too(gateway: Gateway) -> None:
    body = {"model": "parrot", "prompt": "Hi", "stream": True, "stream_options": {"continuous_usage_stats": True}}
    chunks = await told(gateway, body, "/v1/completions")
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 2]


async def test_without_it_no_chunk_has_any(gateway: Gateway) -> None:
    chunks = await told(gateway, streamed(continuous_usage_stats=False))
    assert not any("usage" in chunk for chunk in chunks)
