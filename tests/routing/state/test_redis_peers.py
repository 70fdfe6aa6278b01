"""Gateways that share a Redis server answer each other's questions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from routing.state.redis_peers import RedisPeers
from tests.routing.state.stores import needs_redis_server, redis_server

pytestmark = needs_redis_server
Join = Callable[[dict[str, Any]], Awaitable[RedisPeers]]


@pytest.fixture
async def join(tmp_path: Path) -> AsyncIterator[Join]:
    """Start a gateway that knows these answers."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(redis_server(tmp_path / "redis.sock"))

        async def joining(known: dict[str, Any]) -> RedisPeers:
            async def answer(question: Any) -> Any:
                return known.get(question)

            peers = RedisPeers(f"unix://{tmp_path / 'redis.sock'}")
            await peers.start(answer)
            stack.push_async_callback(peers.close)
            await peers.ask("whether it listens")
            return peers

        yield joining


async def test_the_gateway_that_knows_answers(join: Join) -> None:
    asking = await join({"own": "never asked"})
    await join({"a": {"id": "a"}})
    await join({"b": [1, 2]})
    assert await asking.ask("a") == {"id": "a"}
    assert await asking.ask("b") == [1, 2]
    assert await asking.ask("own") is None
    assert await asking.ask("unknown") is None


async def test_a_gateway_that_left_is_not_waited_for(join: Join) -> None:
    asking, left = await join({}), await join({"a": 1})
    await left.close()
    assert await asking.ask("a") is None
