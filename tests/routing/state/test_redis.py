"""The state in Redis when the server is unreachable."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from catalog.errors import ConfigurationError
from routing.state.protocol import Counter
from routing.state.redis import RedisState
from tests.routing.state.stores import DAY, charge, hold, needs_redis_server, redis_server, until


@needs_redis_server
async def test_while_redis_does_not_answer_a_hold_waits_briefly_and_nothing_is_lost(
    tmp_path: Path, failures: list[BaseException]
) -> None:
    async with redis_server(tmp_path / "redis.sock") as server:
        state = RedisState(f"unix://{tmp_path}/redis.sock")
        await state.start()
        taken = hold(1, 60)
        server.send_signal(signal.SIGSTOP)
        with capture_logs() as logs:
            assert await state.hold(taken, 0.05) is None
            settled = state.charge(charge(taken, 25))
            await until(lambda: len(failures) >= 2)
            assert not settled.done()
            server.send_signal(signal.SIGCONT)
            await asyncio.wait_for(settled, 30)
        assert [entry["event"] for entry in logs] == ["state.not_written", "state.written_again"]
        assert (await state.counts("spend/"))[DAY.name] == 25
        await state.close()


async def test_an_unreachable_redis_is_a_configuration_error_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        await RedisState(f"unix://:hunter2@{tmp_path}/none.sock").start()
    assert "hunter2" not in str(refused.value)


@needs_redis_server
async def test_counters_are_found_without_a_look_at_all_keys_also_those_of_an_earlier_version(
    tmp_path: Path,
) -> None:
    async with redis_server(tmp_path / "redis.sock"), Redis.from_url(f"unix://{tmp_path}/redis.sock") as client:
        await client.set("{rh}:c:spend/all/total/ever", 40)
        await client.set("{rh}:c:spend/all/day/2020-01-01", 3, px=1)
        state = RedisState(f"unix://{tmp_path}/redis.sock")
        await state.start()
        await client.config_resetstat()
        state.count((DAY, Counter("rate/a/minute/1")), 25)
        assert await state.counts("spend/") == {DAY.name: 25, "spend/all/total/ever": 40}
        assert await state.counts("spend/all/total") == {"spend/all/total/ever": 40}
        assert await state.counts("rate/") == {"rate/a/minute/1": 25}
        assert "cmdstat_scan" not in await client.info("commandstats")
        await state.close()
