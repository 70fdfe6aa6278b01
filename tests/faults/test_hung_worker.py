"""A worker that lives and does not answer is replaced: stopped, deadlocked, without socket or progress."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.serving import Gateway, ask, chat, client, serving, soon, worker_row


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with serving(
        tmp_path,
        model=[worker_row("solo", tmp_path)],
        workers={"unresponsive": 0.5, "sample_interval": 0.1},
        backends={"first_byte_timeout": 20},
    ) as running:
        yield running


async def test_a_stopped_worker_is_replaced_and_no_caller_sees_it(gateway: Gateway) -> None:
    async with client(gateway) as session:
        for _ in range(3):
            assert (await ask(session, chat("solo"))).whole
            os.kill(gateway.workers()[0]["pid"], signal.SIGSTOP)
            told = await asyncio.wait_for(asyncio.gather(*(ask(session, chat("solo")) for _ in range(8))), 15)
            assert all(each.whole for each in told), [each.error for each in told]


@pytest.mark.parametrize("fault", ["unlisten", "mute"])
async def test_after_a_fault_the_next_requests_are_answered(gateway: Gateway, fault: str) -> None:
    async with client(gateway) as session:
        await asyncio.wait_for(ask(session, chat("solo", routing=None, **{fault: True})), 15)
        for _ in range(3):
            assert (await asyncio.wait_for(ask(session, chat("solo")), 15)).whole


async def test_requests_that_get_no_token_replace_the_worker_and_leave_no_open_breaker(tmp_path: Path) -> None:
    hung: dict[str, Any] = {"stall_after": 0}
    with serving(tmp_path, model=[worker_row("solo", tmp_path)], backends={"first_byte_timeout": 0.3}) as gateway:
        async with client(gateway) as session:
            assert (await ask(session, chat("solo"))).whole
            first = gateway.workers()[0]["pid"]
            told = await asyncio.gather(*(ask(session, chat("solo", **hung)) for _ in range(8)))
            assert {each.status for each in told} <= {503, 504}
            assert (await asyncio.wait_for(ask(session, chat("solo")), 15)).whole
            assert gateway.workers()[0]["pid"] != first


async def test_what_one_request_makes_an_engine_raise_takes_the_model_from_nobody(tmp_path: Path) -> None:
    with serving(tmp_path, model=[worker_row("solo", tmp_path)]) as gateway:
        async with client(gateway) as session:
            assert (await ask(session, chat("solo"))).whole
            first = gateway.workers()[0]["pid"]
            for _ in range(3):
                for _ in range(7):
                    told = await ask(session, chat("solo", status=500))
                    assert (told.status, told.error and told.error["code"]) == (500, "request_failed")
                assert (await ask(session, chat("solo"))).whole, "no circuit is open"
            assert gateway.workers()[0]["pid"] == first
            for _ in range(8):
                await ask(session, chat("solo", status=500))
            assert (await ask(session, chat("solo"))).whole
            assert await soon_other(gateway, first), "a process that only fails is replaced"


async def soon_other(gateway: Gateway, first: int) -> bool:
    """Whether the next answers come from another process than ``first``."""
    async with client(gateway) as session:
        await soon(lambda: gateway.workers()[0]["pid"] != first, within=15)
        return (await ask(session, chat("solo"))).whole
