"""Scripts in Redis: a burst takes a few round trips on one connection."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Away

from routing.state.redis_scripts import ScriptBatcher, resolves_within
from tests.routing.state.stores import needs_redis_server, redis_server

COUNT = "if redis.call('INCR', KEYS[1]) > tonumber(ARGV[1]) then return 1 end return 0"

pytestmark = needs_redis_server


async def test_a_burst_shares_one_connection_and_each_call_gets_its_own_result(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis.sock"):
        client = Redis.from_url(f"unix://{tmp_path}/redis.sock")
        scripts = ScriptBatcher(client, (Away, OSError))
        before = (await client.info("stats"))["total_connections_received"]
        asked = [scripts.submit(COUNT, ["n"], [100]) for _ in range(1200)]
        answers = await asyncio.gather(*asked)
        assert answers == [0] * 100 + [1] * 1100
        assert (await client.info("stats"))["total_connections_received"] - before <= 1
        await scripts.close()
        await client.aclose()


async def test_a_cancelled_script_is_not_sent_and_an_unreachable_server_is_an_error(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis.sock"):
        client = Redis.from_url(f"unix://{tmp_path}/redis.sock")
        scripts = ScriptBatcher(client, (Away, OSError))
        cancelled, sent = scripts.submit(COUNT, ["n"], [5]), scripts.submit(COUNT, ["n"], [5])
        cancelled.cancel()
        assert await sent == 0
        assert await client.get("n") == b"1"
    with pytest.raises((Away, OSError)):
        await scripts.submit(COUNT, ["n"], [5])
    await scripts.close()
    await client.aclose()


async def test_the_delay_of_a_busy_event_loop_does_not_count_as_the_stores(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis.sock"):
        client = Redis.from_url(f"unix://{tmp_path}/redis.sock")
        scripts = ScriptBatcher(client, (Away, OSError))
        busy = True

        async def burst() -> None:
            while busy:
                time.sleep(0.05)  # noqa: ASYNC251 -- as long as reading a hundred requests blocks the loop
                await asyncio.sleep(0)

        working = asyncio.create_task(burst())
        assert await resolves_within(scripts.submit(COUNT, ["n"], [5]), 0.1)
        busy = False
        await working
        never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        assert not await resolves_within(never, 0.05)
        await scripts.close()
        await client.aclose()
