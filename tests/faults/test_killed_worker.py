"""Row 1: killing a worker ends its streams with an error at once, and affects no other request."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.faults.figures import Figures, count
from tests.faults.serving import Gateway, ask, chat, client, serving, soon, worker_row

ENDLESS: dict[str, Any] = {"tokens": 100_000, "interval": 0.01}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    row = worker_row("solo", tmp_path)
    replicas = [{**worker_row(name, tmp_path), "aliases": ["pair"]} for name in ("left", "right")]
    with serving(tmp_path, model=[row, *replicas]) as running:
        yield running


async def worker_at(gateway: Gateway, event: str, name: object) -> int:
    """Process id of the worker that logged this event of a request."""

    def found() -> list[int]:
        return [line["pid"] for line in gateway.journal(event) if line["name"] == name]

    await soon(found, within=10, every=0.005)
    return found()[0]


async def test_streams_of_a_killed_worker_end_with_an_error_and_the_next_request_succeeds(
    gateway: Gateway, figures: Figures
) -> None:
    rounds = count(20, 50)
    told: list[float] = []
    async with client(gateway) as session:
        for number in range(rounds):
            stream = asyncio.create_task(ask(session, chat("solo", stream=True, name=number, **ENDLESS)))
            pid = await worker_at(gateway, "first", number)
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            broken = await asyncio.wait_for(stream, 10)
            told.append(broken.ended - killed)
            assert broken.error is not None
            assert broken.error["code"] in ("worker_failed", "stream_broken")
            assert not broken.done
            after = await ask(session, chat("solo", name=f"after {number}"))
            assert after.whole, after.body
            assert after.headers["x-roundhouse-attempts"] == "1"
    assert await soon(gateway.at_rest, within=5) < 5
    figures.at_most(1, f"kill -9 in mid-stream, {rounds} times: until the error event, worst", max(told), 1.0, "s")


def test_the_openai_sdk_raises_for_a_stream_whose_worker_was_killed(gateway: Gateway) -> None:
    with openai.OpenAI(base_url=gateway.v1, api_key="none", max_retries=0) as sdk:
        stream = sdk.chat.completions.create(**chat("solo", stream=True, **ENDLESS))
        with pytest.raises(openai.APIError):
            for number, _ in enumerate(stream):
                if number == 3:
                    os.kill(gateway.journal("began")[-1]["pid"], signal.SIGKILL)
        assert sdk.chat.completions.create(**chat("solo")).choices[0].message.content


async def test_a_worker_killed_before_its_first_token_is_never_noticed_when_another_can_answer(
    gateway: Gateway, figures: Figures
) -> None:
    rounds = count(20, 50)
    unseen = 0
    async with client(gateway) as session:
        for number in range(rounds):
            body = chat("pair", stream=number % 2 == 0, name=number, delay=0.4)
            answer = asyncio.create_task(ask(session, body))

            os.kill(await worker_at(gateway, "began", number), signal.SIGKILL)
            told = await asyncio.wait_for(answer, 10)
            assert told.whole, told.body
            assert int(told.headers["x-roundhouse-attempts"]) >= 2
            unseen += told.whole
            # The next round needs two healthy replicas again.
            for each in ("left", "right"):
                assert (await ask(session, chat(each))).whole
    figures.at_least(1, f"killed before the first byte, {rounds} times: answered by another, unseen",
                     100 * unseen / rounds, 100, "%")  # fmt: skip


async def test_a_forced_unload_ends_a_running_stream_with_an_error_event(gateway: Gateway) -> None:
    async with client(gateway) as session:
        stream = asyncio.create_task(ask(session, chat("solo", stream=True, name="long", **ENDLESS)))
        await worker_at(gateway, "first", "long")
        async with session.post("/v1/models/solo/unload", json={"force": True}) as answer:
            assert (await answer.json())["unloaded"] is True
        broken = await asyncio.wait_for(stream, 10)
        assert broken.error is not None
        assert not broken.done
        assert (await ask(session, chat("solo"))).whole
