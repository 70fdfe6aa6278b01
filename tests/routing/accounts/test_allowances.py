"""Limits on shared counters: never passed by gateways together, and mostly without asking the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from routing.accounts.allowances import Allowances
from routing.state.protocol import Claim, Claimed, Counter, State
from routing.state.redis import RedisState
from routing.state.sqlite import SqliteState
from tests.routing.state.stores import LATER, needs_redis_server, redis_server

STORES = ["sqlite", pytest.param("redis", marks=needs_redis_server)]


@pytest.fixture(params=STORES)
async def states(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[State, State]]:
    """Two gateways' connections to one store."""
    async with AsyncExitStack() as stack:
        socket = tmp_path / "redis.sock"
        if request.param == "redis":
            await stack.enter_async_context(redis_server(socket))

        async def opened() -> State:
            redis = request.param == "redis"
            state: State = RedisState(f"unix://{socket}") if redis else SqliteState(tmp_path / "s.sqlite")
            await state.start()
            stack.push_async_callback(state.close)
            return state

        yield await opened(), await opened()


class Counting:
    """A state that counts claims; ``stuck``, it answers none."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.claims = 0
        self.stuck = False

    async def claim(self, claims: Sequence[Claim], timeout: float) -> Claimed:
        self.claims += 1
        if self.stuck:
            raise TimeoutError
        return await self._state.claim(claims, timeout)

    def __getattr__(self, name: str) -> object:
        return getattr(self._state, name)


def counter(limit: int, name: str = "rate/k/requests/day/x") -> Counter:
    return Counter(name, limit, LATER)


async def take_until_refused(allowances: Allowances, wanted: Counter, amount: int = 1) -> int:
    taken = 0
    while await allowances.take([(wanted, amount)]) is None:
        taken += amount
    return taken


@pytest.mark.parametrize(("limit", "amount"), [(5, 1), (100, 14), (1000, 1), (997, 3)])
async def test_gateways_in_demand_use_a_limit_to_its_end_and_never_pass_it(
    states: tuple[State, State], limit: int, amount: int
) -> None:
    gateways = [Allowances(state, store_timeout=5) for state in states]
    wanted = counter(limit)
    taken = sum(await asyncio.gather(*(take_until_refused(each, wanted, amount) for each in gateways)))
    assert taken <= limit
    for each in gateways:
        each.sync()
        each.sync()
    for state in states:
        await state.flush()
    taken += sum([await take_until_refused(each, wanted, amount) for each in gateways])
    assert limit - amount < taken <= limit
    assert (await states[0].counts("rate/"))[wanted.name] == taken


async def test_a_gateway_in_demand_seldom_asks_the_store(states: tuple[State, State]) -> None:
    counting = Counting(states[0])
    allowances = Allowances(counting, store_timeout=5)  # type: ignore[arg-type]
    for _ in range(1000):
        assert await allowances.take([(counter(100_000), 1)]) is None
    assert counting.claims < 20


async def test_amounts_of_several_counters_are_taken_together_or_not_at_all(states: tuple[State, State]) -> None:
    allowances = Allowances(states[0], store_timeout=5)
    requests, tokens = counter(10), counter(100, "rate/k/tokens/day/x")
    assert await allowances.take([(requests, 1), (tokens, 60)]) is None
    refused = await allowances.take([(requests, 1), (tokens, 60)])
    assert refused is not None
    assert (refused.counter, refused.amount, refused.total) == (tokens, 60, 60)
    allowances.close()
    await states[0].flush()
    assert await states[0].counts("rate/") == {requests.name: 1, tokens.name: 60}


async def test_what_a_gateway_does_not_need_is_given_back(states: tuple[State, State]) -> None:
    quiet, busy = (Allowances(state, store_timeout=5) for state in states)
    wanted = counter(1000)
    for _ in range(8):
        await quiet.take([(wanted, 1)])
    quiet.sync()
    quiet.sync()
    await states[0].flush()
    assert await take_until_refused(busy, wanted) == 992


async def test_a_correction_counts_for_the_other_gateway_at_once(states: tuple[State, State]) -> None:
    one, other = (Allowances(state, store_timeout=5) for state in states)
    wanted = counter(100)
    assert await one.take([(wanted, 10)]) is None
    one.correct(wanted, 90)
    await states[0].flush()
    assert await other.take([(wanted, 1)]) is not None
    one.correct(wanted, -50)
    await states[0].flush()
    other.sync()
    assert await other.take([(wanted, 50)]) is None


async def test_a_limit_that_is_reached_is_refused_without_asking_the_store_again(
    states: tuple[State, State],
) -> None:
    counting = Counting(states[0])
    allowances = Allowances(counting, store_timeout=5)  # type: ignore[arg-type]
    await take_until_refused(allowances, counter(3))
    asked = counting.claims
    for _ in range(100):
        assert await allowances.take([(counter(3), 1)]) is not None
    assert counting.claims == asked


async def test_while_the_store_is_stuck_the_known_total_decides_and_is_written_later(
    states: tuple[State, State],
) -> None:
    counting = Counting(states[0])
    allowances = Allowances(counting)  # type: ignore[arg-type]
    wanted = counter(5)
    assert await allowances.take([(wanted, 2)]) is None
    counting.stuck = True
    assert await take_until_refused(allowances, wanted) == 3
    await states[0].flush()
    assert (await states[0].counts("rate/"))[wanted.name] == 5
