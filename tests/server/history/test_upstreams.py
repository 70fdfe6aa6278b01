"""Stored responses before an upstream of the Responses API: this store holds the chain, for every model."""

from __future__ import annotations

import httpx
import pytest

from backends.openai.responses.compaction import Compacting
from backends.streams.sealing import stamped
from catalog.types import Json
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI
from tests.server.wires.test_native_responses import client, events_in, fake, other

__all__ = ["client", "fake", "other"]


async def test_a_chain_goes_from_an_upstream_that_stores_to_a_model_that_cannot_and_back(
    client: httpx.AsyncClient, fake: FakeOpenAI, other: FakeAnthropic
) -> None:
    first = (await client.post("/v1/responses", json={"model": "gpt", "input": "One"})).json()
    assert (first["id"] != "resp_fake", first["store"]) == (True, True)
    said = first["output"][0]["content"][0]["text"]
    asked = {"model": "claude", "input": "Two", "previous_response_id": first["id"]}
    second = (await client.post("/v1/responses", json=asked)).json()
    assert second["previous_response_id"] == first["id"]
    (call,) = other.calls
    texts = [part["text"] for message in call.body["messages"] for part in message["content"]]
    assert texts[:3] == ["One", said, "Two"]
    back: Json = {"model": "gpt", "input": "Three", "previous_response_id": second["id"]}
    answered = await client.post("/v1/responses", json=back)
    assert answered.status_code == 200, answered.text
    sent = fake.calls[-1].body
    assert "previous_response_id" not in sent
    assert [item["role"] for item in sent["input"]] == ["user", "assistant", "user", "assistant", "user"]
    assert not any("_rh" in item.get("id", "") for item in sent["input"] if item["role"] == "user")


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_an_id_that_is_not_kept_here_is_refused_for_every_model(
    client: httpx.AsyncClient, fake: FakeOpenAI, model: str
) -> None:
    for name in ("resp_elsewhere", "resp_fake"):
        unknown = {"model": model, "input": "Hi", "previous_response_id": name}
        refused = await client.post("/v1/responses", json=unknown)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "previous_response_not_found"
    assert not fake.calls


async def test_a_stream_of_the_upstream_is_kept_before_its_last_event_is_sent(client: httpx.AsyncClient) -> None:
    stream = await client.post("/v1/responses", json={"model": "gpt", "input": "One", "stream": True})
    last = events_in(stream.text)[-1]
    assert last["type"] == "response.completed"
    kept = await client.get(f"/v1/responses/{last['response']['id']}")
    assert kept.json()["output"] == last["response"]["output"]
    again = await client.get(f"/v1/responses/{last['response']['id']}?stream=true")
    assert events_in(again.text) == events_in(stream.text)


async def test_a_background_response_of_the_upstream_has_an_id_of_the_gateway(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    asked = {"model": "gpt", "input": "One", "background": True, "stream": True}
    events = events_in((await client.post("/v1/responses", json=asked)).text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    (name,) = {event["response"]["id"] for event in events if "response" in event}
    assert name != "resp_fake"
    assert "background" not in fake.calls[-1].body
    kept = (await client.get(f"/v1/responses/{name}")).json()
    assert (kept["status"], kept["background"]) == ("completed", True)


async def test_openais_own_compaction_is_asked_for_and_goes_back_to_its_endpoint_alone(
    client: httpx.AsyncClient, fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Compacting, "hosts", ("127.0.0.1",))
    first = (await client.post("/v1/responses", json={"model": "gpt", "input": "One"})).json()
    asked = {"model": "gpt", "input": "Two", "previous_response_id": first["id"]}
    answer = await client.post("/v1/responses/compact", json=asked)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["object"], told["usage"]["total_tokens"]) == ("response.compaction", 25)
    assert [item["type"] for item in told["output"]] == ["message", "message", "compaction"]
    assert ("store" in told, answer.headers.get("x-roundhouse-dropped")) == (False, None)
    assert fake.calls[-1].path == "/v1/responses/compact"
    assert [item["role"] for item in fake.calls[-1].body["input"]] == ["user", "assistant", "user"]
    going_on = [*told["output"], {"role": "user", "content": "Three"}]
    back = await client.post("/v1/responses", json={"model": "gpt", "input": going_on})
    assert back.status_code == 200, back.text
    (item,) = [item for item in fake.calls[-1].body["input"] if item.get("type") == "compaction"]
    assert item["encrypted_content"] == "gAAAA-compacted"
    refused = await client.post("/v1/responses", json={"model": "claude", "input": going_on})
    assert refused.status_code == 400, refused.text
    assert "compaction" in refused.json()["error"]["message"]
    moved = {**item, "encrypted_content": stamped("gAAAA-compacted", "elsewhere")}
    refused = await client.post("/v1/responses", json={"model": "gpt", "input": [moved]})
    assert refused.status_code == 400
    assert "'elsewhere'" in refused.json()["error"]["message"]


async def test_a_compaction_under_a_limit_on_cost_is_a_bounded_summary(
    client: httpx.AsyncClient, fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Compacting, "hosts", ("127.0.0.1",))
    asked = {"model": "gpt", "input": "One", "routing": {"max_cost": 0.01}}
    answer = await client.post("/v1/responses/compact", json=asked)
    assert answer.status_code == 200, answer.text
    assert fake.calls[-1].path == "/v1/responses"
    assert "max_output_tokens" in fake.calls[-1].body
