"""Stores, holds and charges for the tests of the state."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from routing.state.protocol import (
    Charge,
    Counter,
    Hold,
    State,
    UsageRow,
)

NOW = 1_800_000_000.0
LATER = 4_000_000_000.0
DAY = Counter("spend/all/day/2027-01-15", limit=100, expires_at=LATER)
TOTAL = Counter("spend/all/total/ever", limit=1000)
OPEN = Counter("spend/key/a/day/2027-01-15", limit=None, expires_at=LATER)

needs_redis_server = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not installed"
)

Opener = Callable[[], Awaitable[State]]
STORES = ["sqlite", pytest.param("redis", marks=needs_redis_server)]


@asynccontextmanager
async def redis_server(socket: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Redis server on a Unix socket, without persistence."""
    server = await asyncio.create_subprocess_exec(
        *("redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        async with asyncio.timeout(10):
            while b"eady to accept connections" not in (line := await server.stdout.readline()):
                assert line, "redis-server ended"
        yield server
    finally:
        server.terminate()
        await server.communicate()


def hold(
    number: int, amount: int, *, owner: str = "me", counters: tuple[Counter, ...] = (DAY, TOTAL, OPEN)
) -> Hold:
    return Hold(
        id=f"{owner}/{number}",
        owner=owner,
        at=NOW,
        day="2027-01-15",
        amount=amount,
        counters=counters,
        key="a",
        model="m",
        endpoint="e",
    )


def charge(taken: Hold | None, amount: int, **usage: int) -> Charge:
    row = UsageRow("2027-01-15", "m", "e", "a", calls=1, cost=amount, **usage)
    return Charge(taken.id if taken else None, (DAY, TOTAL, OPEN), amount, row)


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; fails after half a minute."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)
