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


OF_API: dict[str, Json] = {
    "responses": {"input": "Hi"},
    "messages": {"max_tokens": 400, "messages": [{"role": "user", "content": "Hi"}]},
}
FOREIGN = [
    ("responses", "max_tokens"),
    ("responses", "max_completion_tokens"),
    ("messages", "max_completion_tokens"),
    ("messages", "max_output_tokens"),
]


@pytest.mark.parametrize(("door", "name"), FOREIGN)
async def test_a_field_of_another_api_is_named_and_the_limit_is_kept_all_the_same(
    client: httpx.AsyncClient, other: FakeOpenAI, door: str, name: str
) -> None:
    answer = await client.post(
        f"/v1/{door}", json={"model": "gpt", **OF_API[door], name: 99_999, "routing": MAX_COST}
    )
    assert answer.status_code == 200, answer.text
    assert name in answer.headers["x-roundhouse-dropped"].split(", ")
    sent = other.calls[-1].body
    (bound,) = (
        sent[each] for each in ("max_tokens", "max_completion_tokens", "max_output_tokens") if each in sent
    )
    assert bound < 500


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("door", OF_API)
async def test_a_form_by_a_field_of_another_api_is_refused_without_blame_for_the_model(
    client: httpx.AsyncClient, other: FakeOpenAI, door: str, *, strict: bool
) -> None:
    form = {"response_format": {"type": "json_object"}}
    body: Json = {"model": "gpt", **OF_API[door], **form, "routing": {"strict": strict}}
    answer = await client.post(f"/v1/{door}", json=body)
    assert answer.status_code == 400
    assert "is a field of chats, not of this API" in answer.json()["error"]["message"]
    assert "gpt" not in answer.json()["error"]["message"]
    assert not other.calls
