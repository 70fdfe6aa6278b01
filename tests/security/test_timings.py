"""A caller that asks is told the context window and the times of its answer, and no upstream sees the question."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.security.conftest import CHAT, OpenSite, assert_error

FAR = {**CHAT, "model": "far"}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", FAR),
    "local chat": ("/v1/chat/completions", CHAT),
    "completion": ("/v1/completions", {"model": "near", "prompt": "Hi"}),
    "embedding": ("/v1/embeddings", {"model": "vector", "input": "Hi"}),
    "response": ("/v1/responses", {"model": "far", "input": "Hi"}),
    "message": ("/v1/messages", {**FAR, "max_tokens": 50}),
}


@pytest.mark.parametrize("name", ASKED)
async def test_the_usage_has_the_times_where_the_caller_asks(site: OpenSite, name: str) -> None:
    path, body = ASKED[name]
    async with site() as running:
        plain = await running.client.post(path, json=body)
        assert "x-roundhouse" not in plain.json()["usage"]
        in_body, in_header = {**body, "timings": True}, {"x-roundhouse-timings": "true"}
        nothing: dict[str, str] = {}
        for sent, headers in ((in_body, nothing), (body, in_header)):
            answer = await running.client.post(path, json=sent, headers=headers)
            assert answer.status_code == 200, answer.text
            told = answer.json()["usage"]["x-roundhouse"]
            assert set(told) == {"context_window", "time_to_first_token", "latency"}
            assert told["latency"] >= (told["time_to_first_token"] or 0) >= 0
            assert "x-roundhouse-dropped" not in answer.headers
        assert not any("timings" in call.body for call in running.provider.calls if isinstance(call.body, dict))


async def test_a_streams_last_chunk_has_them(site: OpenSite) -> None:
    async with site() as running:
        body = {**CHAT, "timings": True, "stream": True, "stream_options": {"include_usage": True}}
        answer = await running.client.post("/v1/chat/completions", json=body)
        chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        told = chunks[-1]["usage"]["x-roundhouse"]
        assert told["latency"] >= told["time_to_first_token"] > 0
        assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_a_wrong_value_is_refused(site: OpenSite) -> None:
    async with site() as running:
        refused = await running.client.post("/v1/chat/completions", json={**CHAT, "timings": "yes"})
        assert assert_error(refused, 400)["param"] == "timings"
