"""Row 6: each clock runs out in its own time, says which it was, and gives everything back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import NO_FAULT, Fault
from tests.faults.figures import Figures
from tests.faults.serving import Gateway, ask, chat, client, serving, soon, upstream_row, worker_row

TIMES = {"first_byte_timeout": 1.5, "idle_timeout": 1.5, "total_timeout": 3.0}
STALLS: dict[str, tuple[Fault, dict[str, Any], float]] = {
    "first_byte_timeout": (Fault(first_byte_delay=60), {"delay": 60}, 1.5),
    "idle_timeout": (Fault(stall_after=2), {"stall_after": 2}, 1.5),
    "total_timeout": (Fault(chunk_delay=0.5), {"interval": 0.5, "tokens": 100}, 3.0),
}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[tuple[Gateway, FakeOpenAI]]:
    async with FakeOpenAI() as upstream:
        upstream.reply = "word " * 100
        rows = [worker_row("worker", tmp_path, slots=4), upstream_row("remote", "there")]
        endpoint = [{"id": "there", "base_url": upstream.base_url}]
        with serving(tmp_path, model=rows, endpoint=endpoint, backends=TIMES) as gateway:
            yield gateway, upstream


def attempts(gateway: Gateway, trace: str) -> list[dict[str, Any]]:
    """What the gateway's own clock measured."""
    document = gateway.get(f"/v1/traces/{trace}").raise_for_status().json()
    found: list[dict[str, Any]] = document["attempts"]
    return found


@pytest.mark.parametrize("model", ["remote", "worker"])
async def test_each_clock_fires_in_its_time_with_its_own_code(
    house: tuple[Gateway, FakeOpenAI], figures: Figures, model: str
) -> None:
    gateway, upstream = house
    async with client(gateway) as session:
        assert (await ask(session, chat(model))).whole
        for code, (fault, switches, seconds) in STALLS.items():
            for stream in (True, False):
                upstream.script(NO_FAULT, fault)
                assert (await ask(session, chat(model))).whole  # else the breaker would rightly stop asking
                told = await ask(session, chat(model, stream=stream, name=f"{code} {stream}", **switches))
                assert told.error is not None
                assert told.error["code"] == code
                assert not told.done
                if not told.events:
                    assert told.status == 504
                await soon(gateway.at_rest, within=2)
                if model == "worker":
                    await soon(
                        lambda code=code, stream=stream: any(  # type: ignore[misc]
                            line["name"] == f"{code} {stream}" for line in gateway.journal("cancelled")
                        ),
                        within=2,
                    )
                else:
                    await upstream.calls[-1].cancelled.wait()
                trace = told.headers.get("x-roundhouse-trace") or trace_of(gateway)
                (attempt,) = attempts(gateway, trace)
                # The idle clock runs from the last chunk, which came at once.
                off = abs(measured(attempt, code) - seconds) / seconds
                figures.at_most(
                    6, f"{model}, {'stream' if stream else 'plain'}: {code} off by", 100 * off, 10, "%"
                )


def trace_of(gateway: Gateway) -> str:
    """The trace of the last request, from the access log: a refusal has no headers of an answer."""
    return str([line for line in gateway.log("request") if line["path"] == "/v1/chat/completions"][-1]["trace"])


def measured(attempt: dict[str, Any], code: str) -> float:
    """Seconds until the clock fired: the idle one began at the first chunk."""
    duration = float(attempt["duration"]) - float(attempt.get("queued") or 0)
    return duration - float(attempt["first_chunk"]) if code == "idle_timeout" else duration
