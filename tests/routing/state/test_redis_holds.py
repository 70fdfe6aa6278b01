"""A burst of holds is a round trip or two, on one connection, whatever its size."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Away

from routing.state.redis_holds import Decisions, answered
from tests.routing.state.test_state import redis_server

COUNT = "if redis.call('INCR', KEYS[1]) > tonumber(ARGV[1]) then return 1 end return 0"

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


async def test_a_burst_shares_one_connection_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis.sock"):
        client = Redis.from_url(f"unix://{tmp_path}/redis.sock")
        decisions = Decisions(client, (Away, OSError))
        before = (await client.info("stats"))["total_connections_received"]
        asked = [decisions.ask(COUNT, ["n"], [100]) for _ in range(1200)]
        answers = await asyncio.gather(*asked)
        assert answers == [0] * 100 + [1] * 1100
        assert (await client.info("stats"))["total_connections_received"] - before <= 1
        await decisions.close()
        await client.aclose()


async def test_who_no_longer_waits_is_not_asked_for_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis.sock"):
        client = Redis.from_url(f"unix://{tmp_path}/redis.sock")
        decisions = Decisions(client, (Away, OSError))
        gone, stays = decisions.ask(COUNT, ["n"], [5]), decisions.ask(COUNT, ["n"], [5])
        gone.cancel()
        assert await stays == 0
        assert await client.get("n") == b"1"
    with pytest.raises((Away, OSError)):
        await decisions.ask(COUNT, ["n"], [5])
    await decisions.close()
    await client.aclose()


async def test_a_busy_loop_does_not_take_its_own_delay_for_the_stores(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis.sock"):
        client = Redis.from_url(f"unix://{tmp_path}/redis.sock")
        decisions = Decisions(client, (Away, OSError))
        busy = True

        async def burst() -> None:
            while busy:
                time.sleep(0.05)  # noqa: ASYNC251 -- what reading a hundred requests does to the loop
                await asyncio.sleep(0)

        working = asyncio.create_task(burst())
        assert await answered(decisions.ask(COUNT, ["n"], [5]), 0.1)
        busy = False
        await working
        never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        assert not await answered(never, 0.05)
        await decisions.close()
        await client.aclose()
