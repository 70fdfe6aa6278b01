"""Row 6: each timeout fires in its own time, with its own error code, and releases everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from catalog.types import Json
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.faults.figures import Figures
from tests.faults.serving import (
    Gateway,
    ask,
    chat,
    client,
    eventually,
    serving,
    soon,
    upstream_row,
    worker_row,
)

TIMES = {"first_byte_timeout": 2.0, "idle_timeout": 2.0, "total_timeout": 4.0}


@dataclass(frozen=True)
class Stall:
    """Makes one timeout fire, at a remote upstream and in a worker; ``seconds`` is its setting."""

    code: str
    fault: Fault
    switches: dict[str, Any]

    @property
    def seconds(self) -> float:
        return TIMES[self.code]


STALLS = (
    Stall("first_byte_timeout", Fault(first_byte_delay=60), {"delay": 60}),
    Stall("idle_timeout", Fault(stall_after=2), {"stall_after": 2}),
    Stall("total_timeout", Fault(chunk_delay=0.5), {"interval": 0.5, "tokens": 100}),
)


@pytest.fixture
async def gateway_and_upstreams(tmp_path: Path) -> AsyncIterator[tuple[Gateway, dict[str, FakeOpenAI]]]:
    """A gateway with a worker and one upstream per kind of stall."""
    async with AsyncExitStack() as stack:
        upstreams = {}
        for stall in STALLS:
            upstream = upstreams[stall.code] = await stack.enter_async_context(FakeOpenAI())
            upstream.reply, upstream.fault = "word " * 100, stall.fault
        endpoints = [{"id": code, "base_url": upstream.base_url} for code, upstream in upstreams.items()]
        rows = [worker_row("worker", tmp_path, slots=8), *(upstream_row(code, code) for code in upstreams)]
        with serving(tmp_path, model=rows, endpoint=endpoints, backends=TIMES) as gateway:
            yield gateway, upstreams


@pytest.mark.parametrize("where", ["remote", "worker"])
async def test_each_clock_fires_in_its_time_with_its_own_code(
    gateway_and_upstreams: tuple[Gateway, dict[str, FakeOpenAI]], figures: Figures, where: str
) -> None:
    gateway, upstreams = gateway_and_upstreams

    async def stalled(stall: Stall, stream: bool) -> tuple[Stall, bool, str]:
        model, switches = (stall.code, {}) if where == "remote" else ("worker", stall.switches)
        name = f"{stall.code}-{stream}"
        body = chat(model, stream=stream, name=name, **switches)
        told = await ask(session, body, headers={"x-request-id": name})
        assert told.error is not None
        assert told.error["code"] == stall.code
        assert not told.done
        assert told.events or told.status == 504
        return stall, stream, name

    async with client(gateway) as session:
        if where == "worker":
            assert (await ask(session, chat("worker", name="warm"))).whole
        results = await asyncio.gather(*(stalled(stall, stream) for stall in STALLS for stream in (True, False)))
        await soon(gateway.at_rest, within=5)
    if where == "worker":
        await soon(lambda: len(gateway.journal("cancelled")) == len(results), within=5)
    else:
        for upstream in upstreams.values():
            for call in upstream.calls:
                await asyncio.wait_for(call.cancelled.wait(), 5)
    for stall, stream, name in results:
        seconds = measured(gateway, name, stall.code)
        off = 100 * abs(seconds - stall.seconds) / stall.seconds
        figures.at_most(6, f"{where}, {'stream' if stream else 'plain'}: {stall.code} off by", off, 10, "%")


def measured(gateway: Gateway, request_id: str, code: str) -> float:
    """Seconds until the timeout fired, from the gateway's trace; the idle timeout counts from the first chunk."""

    def lines() -> list[Json]:
        return [line for line in gateway.log("request") if line["request_id"] == request_id]

    eventually(lines, within=5)
    (attempt,) = gateway.get(f"/v1/traces/{lines()[0]['trace']}").raise_for_status().json()["attempts"]
    began = float(attempt["first_chunk"]) if code == "idle_timeout" else float(attempt["queued"])
    return float(attempt["duration"]) - began
