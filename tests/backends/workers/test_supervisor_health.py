"""Workers that live and do not answer: each is replaced, and the next request succeeds."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from backends.queueing import Need
from backends.workers.health import unhealthy
from catalog.errors import FirstByteTimeout, InvalidRequest, RoundhouseError, UpstreamUnreachable
from tests.backends.workers.conftest import OpenPool, PoolHarness, client, model

ANSWER = "m:0 m:1 m:2 m:3 "


async def fail(h: PoolHarness, error: RoundhouseError) -> None:
    """Lease the worker for a call that ends with ``error``."""
    with pytest.raises(type(error)):
        async with h.pool.lease(model(), Need()):
            raise error


async def test_a_stopped_process_is_replaced_while_a_request_waits_for_it(open_pool: OpenPool) -> None:
    async with open_pool(unresponsive=0.3, sample_interval=0.02) as h:
        await h.ask(model())
        stopped = h.view().pid
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(httpx.HTTPError):
            await h.ask(model())
        assert await h.ask(model()) == ANSWER
        assert h.view().pid != stopped
        assert h.witness.deaths == ["m"]


async def test_a_deadlocked_worker_is_replaced_while_a_request_waits_for_it(open_pool: OpenPool) -> None:
    async with open_pool(unresponsive=0.3, sample_interval=0.02) as h:
        with pytest.raises(httpx.HTTPError):
            await h.ask(model(), mute=True)
        assert await h.ask(model()) == ANSWER
        assert h.view().restarts == 1


async def test_a_worker_that_does_not_answer_its_health_after_a_timeout_is_replaced(open_pool: OpenPool) -> None:
    async with open_pool(unresponsive=0.3) as h:
        await h.ask(model())
        os.kill(h.view().pid, signal.SIGSTOP)
        await fail(h, FirstByteTimeout("too slow"))
        await h.until(lambda: h.view().restarts == 1)
        assert await h.ask(model()) == ANSWER


async def test_a_worker_without_its_socket_is_replaced_before_the_next_request(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        assert await h.ask(model(), unlisten=True) == ANSWER
        await fail(h, UpstreamUnreachable("refused"))
        assert await h._ask(model(), None, {}) == ANSWER, "the first try, as no lease is given for the old one"
        assert h.view().restarts == 1


async def test_a_healthy_worker_survives_a_failed_call(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        await h.ask(model())
        for error in (UpstreamUnreachable("reset"), FirstByteTimeout("slow"), InvalidRequest("wrong")):
            await fail(h, error)
            assert await h.ask(model()) == ANSWER
        assert h.view().restarts == 0
        assert h.witness.deaths == h.witness.unloads == []


async def test_an_engine_that_makes_no_progress_behind_a_good_health_is_replaced_and_cuts_no_stream(
    open_pool: OpenPool, tmp_path: Path
) -> None:
    async with open_pool() as h:
        go = tmp_path / "go"
        running = asyncio.create_task(h.ask(model(), hold=str(go)))
        await h.until(lambda: bool(h.pool.snapshot().workers) and h.view().busy == 1)
        first = h.view().pid
        for _ in range(2):
            await fail(h, FirstByteTimeout("too slow"))
        await h.until(lambda: h.witness.deaths == ["m"])
        waiting = asyncio.create_task(h.ask(model()))
        go.touch()
        assert await running == await waiting == ANSWER
        assert h.view().pid != first


async def test_an_answer_between_two_timeouts_is_progress(open_pool: OpenPool) -> None:
    async with open_pool() as h:
        for _ in range(4):
            await fail(h, FirstByteTimeout("too slow"))
            assert await h.ask(model()) == ANSWER
        assert h.witness.deaths == []


async def test_health_is_a_200_in_time(open_pool: OpenPool, tmp_path: Path) -> None:
    async with open_pool() as h, h.pool.lease(model(), Need()) as upstream, client(upstream) as http:
        assert (await http.get("http://worker/health")).is_success
        assert await unhealthy(upstream.uds, 30) is None
    assert await unhealthy(str(tmp_path / "none.sock"), 30) == "its socket is gone"

    async def closes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def dead(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_unix_server(closes, tmp_path / "a.sock"):
        assert await unhealthy(str(tmp_path / "a.sock"), 0.2) == "it did not answer for 0.2 s"
    async with await asyncio.start_unix_server(dead, tmp_path / "b.sock"):
        assert await unhealthy(str(tmp_path / "b.sock"), 30) == "its health is 503"
