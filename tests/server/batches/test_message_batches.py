"""Anthropic's batches: the same work, in the shapes that Anthropic's clients read."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from catalog.errors import IdleTimeout
from catalog.types import Json
from tests.server.api.stored.test_files import bounds, files_of, names
from tests.server.conftest import Gateway, Start

PATH = "/v1/messages/batches"


def asked(name: str, **params: Any) -> Json:
    messages = [{"role": "user", "content": "Hi"}]
    return {"custom_id": name, "params": {"model": "parrot", "max_tokens": 9, "messages": messages, **params}}


async def send(gateway: Gateway, *requests: Json) -> Json:
    answer = await gateway.client.post(PATH, json={"requests": list(requests)})
    assert answer.status_code == 200, answer.text
    made: Json = answer.json()
    return made


async def ended(gateway: Gateway, batch: Json) -> Json:
    async with asyncio.timeout(20):
        while True:
            told: Json = (await gateway.client.get(f"{PATH}/{batch['id']}")).json()
            if told["processing_status"] == "ended":
                return told
            await asyncio.sleep(0.01)


async def results(gateway: Gateway, batch: Json) -> dict[str, Json]:
    answer = await gateway.client.get(batch["results_url"])
    assert answer.headers["content-type"].startswith("application/x-jsonl")
    lines = [orjson.loads(line) for line in answer.content.splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line["result"] for line in lines}


def counts(**numbers: int) -> Json:
    return {**dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0), **numbers}


async def test_every_request_gets_a_message_or_its_own_error(gateway: Gateway) -> None:
    batch = await send(gateway, asked("a"), asked("b", max_tokens=-1), asked("c", stream=True), asked("d"))
    assert (batch["type"], batch["processing_status"]) == ("message_batch", "in_progress")
    assert (batch["request_counts"], batch["results_url"]) == (counts(processing=4), None)
    done = await ended(gateway, batch)
    assert done["request_counts"] == counts(succeeded=2, errored=2)
    assert done["ended_at"].endswith("Z")
    found = await results(gateway, done)
    direct = (await gateway.client.post("/v1/messages", json=asked("x")["params"])).json()
    for name in "ad":
        assert found[name]["type"] == "succeeded"
        assert found[name]["message"]["content"] == direct["content"]
        assert found[name]["message"]["usage"] == direct["usage"]
    for name in "bc":
        assert found[name]["type"] == "errored"
        assert found[name]["error"]["type"] == "error"
        assert found[name]["error"]["error"]["type"] == "invalid_request_error"


async def test_a_failure_of_the_model_is_anthropics_error(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.batches.asking.TRIES", 1)
    gateway.backend.script = (IdleTimeout("late"),)
    found = await results(gateway, await ended(gateway, await send(gateway, asked("a"))))
    assert found["a"]["error"]["error"] == {"type": "timeout_error", "message": "late"}


async def test_a_cancelled_batch_tells_which_requests_were_not_asked(gateway: Gateway) -> None:
    gateway.dispatcher.gate = asyncio.Event()
    batch = await send(gateway, asked("a"), asked("b"))
    await asyncio.wait_for(gateway.dispatcher.waiting.wait(), 20)
    running = await gateway.client.delete(f"{PATH}/{batch['id']}")
    assert (running.status_code, running.json()["type"]) == (400, "error")
    none_yet = await gateway.client.get(f"{PATH}/{batch['id']}/results")
    assert (none_yet.status_code, none_yet.json()["error"]["type"]) == (404, "not_found_error")
    told = (await gateway.client.post(f"{PATH}/{batch['id']}/cancel")).json()
    assert told["processing_status"] == "canceling"
    assert told["cancel_initiated_at"] is not None
    done = await ended(gateway, batch)
    assert done["request_counts"] == counts(canceled=2)
    assert await results(gateway, done) == {"a": {"type": "canceled"}, "b": {"type": "canceled"}}
    deleted = await gateway.client.delete(f"{PATH}/{batch['id']}")
    assert deleted.json() == {"id": batch["id"], "type": "message_batch_deleted"}
    assert (await gateway.client.get(f"{PATH}/{batch['id']}")).status_code == 404
    assert names(files_of(gateway).folder) == []


@pytest.mark.parametrize(
    "requests",
    [[], [asked("a"), asked("a")], [{"custom_id": "a b", "params": {}}], [{"custom_id": "a"}], ["x"]],
    ids=["none", "twice", "id", "params", "text"],
)
async def test_a_batch_that_cannot_be_made_is_refused_in_anthropics_shape(
    gateway: Gateway, requests: list[Any]
) -> None:
    answer = await gateway.client.post(PATH, json={"requests": requests})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert names(files_of(gateway).folder) == []


async def test_more_requests_than_the_limit_are_refused(gateway: Gateway) -> None:
    bounds(gateway, batch_lines=1)
    answer = await gateway.client.post(PATH, json={"requests": [asked("a"), asked("b")]})
    assert answer.status_code == 400
    assert "storage.batch_lines" in answer.json()["error"]["message"]


async def test_batches_are_listed_both_ways_and_seen_by_their_key_alone(start: Start) -> None:
    async with start(api_keys=("one", "two")) as gateway:
        gateway.client.headers["x-api-key"] = "one"
        made = [(await send(gateway, asked("a")))["id"] for _ in range(3)]

        async def page(**query: Any) -> tuple[list[str], bool]:
            told: httpx.Response = await gateway.client.get(PATH, params=query)
            return [each["id"] for each in told.json()["data"]], told.json()["has_more"]

        assert await page(limit=2) == ([made[2], made[1]], True)
        assert await page(after_id=made[1]) == ([made[0]], False)
        assert await page(before_id=made[0]) == ([made[2], made[1]], False)
        done = await ended(gateway, {"id": made[0]})
        gateway.client.headers["x-api-key"] = "two"
        assert await page() == ([], False)
        for answer in (
            await gateway.client.get(f"{PATH}/{made[0]}"),
            await gateway.client.get(done["results_url"]),
            await gateway.client.post(f"{PATH}/{made[0]}/cancel"),
            await gateway.client.delete(f"{PATH}/{made[0]}"),
        ):
            assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
