"""A caller with ``max_cost`` learns that its answer ended for that, in each language of the door."""

from __future__ import annotations

import httpx
import pytest

from catalog.types import Json
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI
from tests.server.wires.test_native import client, fake, other

__all__ = ["client", "fake", "other"]
MAX_COST = {"max_cost": 0.001}


@pytest.mark.parametrize("model", ["claude", "gpt"])
async def test_an_answer_that_would_pass_max_cost_ends_with_length_and_names_the_limit(
    client: httpx.AsyncClient, fake: FakeAnthropic, other: FakeOpenAI, model: str
) -> None:
    fake.reply = other.reply = "word " * 1000
    chat: Json = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "routing": MAX_COST}
    answer = await client.post("/v1/chat/completions", json=chat)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    bound, limit = answer.headers["x-roundhouse-bound"].split("; ")
    assert limit == "max_cost"
    tokens = int(bound.removeprefix("max_tokens="))
    assert 450 < tokens < 500
    usage = answer.json()["usage"]
    assert usage["prompt_tokens"] * 1e-6 + usage["completion_tokens"] * 2e-6 <= MAX_COST["max_cost"]
    response = {"model": model, "input": "Hi", "routing": MAX_COST}
    other_language = (await client.post("/v1/responses", json=response)).json()
    assert other_language["status"] == "incomplete"
    assert other_language["incomplete_details"] == {"reason": "max_output_tokens"}
    without = await client.post("/v1/chat/completions", json={**chat, "routing": {}})
    assert without.json()["choices"][0]["finish_reason"] == "stop"
