"""Answers in progress count against a key's limit of tokens before they are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import InvalidRequest, RateLimited
from routing.accounts.allowances import Allowances
from routing.accounts.reservations import ASSUMED, TokenGrant, TokenReservations
from routing.accounts.virtual_keys import KeyLimits, Rate, VirtualKeys
from routing.facts import Facts
from routing.outcomes import Result, Usage
from routing.state.protocol import Counter, State
from routing.state.redis import RedisState
from routing.state.sqlite import SqliteState
from tests.routing.clocks import ManualClock
from tests.routing.outcome_factory import CHAT, outcome
from tests.routing.state.stores import LATER, needs_redis_server, redis_server

STORES = ["sqlite", pytest.param("redis", marks=needs_redis_server)]
UNKNOWN = Usage(known=False)


@pytest.fixture(params=STORES)
async def states(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[State, State]]:
    """Two gateways' connections to one store."""
    async with AsyncExitStack() as stack:
        socket = tmp_path / "redis.sock"
        redis = request.param == "redis"
        if redis:
            await stack.enter_async_context(redis_server(socket))
        opened: list[State] = []
        for _ in range(2):
            state: State = RedisState(f"unix://{socket}") if redis else SqliteState(tmp_path / "s.sqlite")
            await state.start()
            stack.push_async_callback(state.close)
            opened.append(state)
        yield opened[0], opened[1]


@pytest.fixture
async def gateways(states: tuple[State, State]) -> tuple[VirtualKeys, VirtualKeys]:
    clock = ManualClock()
    one, other = (VirtualKeys(state, clock, owner=f"h/{number}/1.00") for number, state in enumerate(states))
    return one, other


async def key_with(gateways: tuple[VirtualKeys, VirtualKeys], tokens: Rate) -> str:
    made = await gateways[0].create("limited", limits=KeyLimits(tokens=tokens))
    await gateways[1].start()
    return made.info.id


def facts_of(key: str, prompt: int, most: int | None = None) -> Facts:
    return replace(CHAT, key=key, prompt_tokens=prompt, output_tokens=most)


async def admit(keys: VirtualKeys, facts: Facts) -> TokenGrant | None:
    try:
        return await keys.admit(keys.get(facts.key), facts)
    except RateLimited:
        return None


async def total(state: State) -> int:
    await state.flush()
    (value,) = (await state.counts("rate/")).values()
    return value


async def test_a_burst_of_bounded_answers_never_passes_a_limit_over_two_gateways(
    states: tuple[State, State], gateways: tuple[VirtualKeys, VirtualKeys]
) -> None:
    key = await key_with(gateways, Rate(day=1000))
    burst = [facts_of(key, 10, 90) for _ in range(40)]
    grants = await asyncio.gather(*(admit(gateways[n % 2], facts) for n, facts in enumerate(burst)))
    assert len([grant for grant in grants if grant]) == 10
    for n, grant in enumerate(grants):
        if grant is not None:
            gateways[n % 2].record(outcome(facts=grant.facts, usage=Usage(input=10, output=90)))
            gateways[n % 2].settle(grant)
    assert await total(states[0]) == 1000


async def test_what_an_answer_did_not_need_is_given_back_when_it_ends(
    states: tuple[State, State], gateways: tuple[VirtualKeys, VirtualKeys]
) -> None:
    key = await key_with(gateways, Rate(day=100))
    grant = await admit(gateways[0], facts_of(key, 10, 90))
    assert grant
    assert await admit(gateways[1], facts_of(key, 10, 10)) is None
    gateways[0].record(outcome(facts=grant.facts, usage=Usage(input=10, output=20)))
    gateways[0].settle(grant)
    assert await total(states[0]) == 30
    await gateways[1].sync()
    assert await admit(gateways[1], facts_of(key, 10, 60))


@pytest.mark.parametrize(
    ("result", "usage", "text", "counted"),
    [
        (Result.FAILED, UNKNOWN, "", 0),
        (Result.FAILED, UNKNOWN, "x" * 30, 20),
        (Result.CANCELLED, UNKNOWN, "x" * 30, 20),
        (Result.SUCCESS, UNKNOWN, "x" * 30, 20),
        (Result.CANCELLED, Usage(input=7, output=4), "x" * 30, 11),
    ],
)
async def test_a_failed_or_cancelled_answer_counts_what_came_of_it(
    states: tuple[State, State],
    gateways: tuple[VirtualKeys, VirtualKeys],
    result: Result,
    usage: Usage,
    text: str,
    counted: int,
) -> None:
    key = await key_with(gateways, Rate(day=1000))
    grant = await admit(gateways[0], facts_of(key, 10, 500))
    assert grant
    if text:
        grant.see({"choices": [{"delta": {"content": text}}]})
    gateways[0].record(outcome(result, facts=grant.facts, usage=usage))
    gateways[0].settle(grant)
    gateways[0].settle(grant)
    assert await total(states[0]) == counted


async def test_an_answer_without_a_bound_reserves_the_assumed_length_or_the_rest_of_a_limit(
    states: tuple[State, State], gateways: tuple[VirtualKeys, VirtualKeys]
) -> None:
    key = await key_with(gateways, Rate(day=ASSUMED + 60))
    assert await admit(gateways[0], facts_of(key, 10))
    assert await total(states[0]) == ASSUMED + 10
    assert await admit(gateways[1], facts_of(key, 10))
    assert await total(states[0]) == ASSUMED + 60
    assert await admit(gateways[0], facts_of(key, 1)) is None


async def test_a_bound_above_the_whole_limit_is_a_mistake_of_the_request_and_no_reason_to_wait(
    gateways: tuple[VirtualKeys, VirtualKeys],
) -> None:
    key = await key_with(gateways, Rate(minute=100))
    told = r"101, 91 of them by its own bound.*at most 90 with max_tokens"
    with pytest.raises(InvalidRequest, match=told) as refused:
        await gateways[0].admit(gateways[0].get(key), facts_of(key, 10, 91))
    assert (refused.value.param, refused.value.headers()) == ("max_tokens", {})
    with pytest.raises(RateLimited, match="does not allow this request") as too_long:
        await gateways[0].admit(gateways[0].get(key), facts_of(key, 100, 91))  # no bound would help
    assert too_long.value.retry_after is None


async def test_an_answer_without_a_bound_may_become_as_long_as_what_is_left_of_the_lowest_limit(
    gateways: tuple[VirtualKeys, VirtualKeys],
) -> None:
    key = await key_with(gateways, Rate(day=5000, month=100_000))
    first = await admit(gateways[0], facts_of(key, 10))
    assert first
    assert first.most == 4990
    second = await admit(gateways[1], replace(facts_of(key, 10), choices=2))
    assert second
    assert second.most == (5000 - 10 - ASSUMED - 10) // 2
    bounded = await admit(gateways[1], facts_of(key, 10, 50))
    assert bounded
    assert bounded.most is None
    full = await key_with(gateways, Rate(day=10))
    last = await admit(gateways[0], facts_of(full, 10))
    assert last
    assert last.most == 1


async def test_an_answer_that_outgrows_what_it_reserved_reserves_more(
    states: tuple[State, State], gateways: tuple[VirtualKeys, VirtualKeys]
) -> None:
    key = await key_with(gateways, Rate(day=3 * ASSUMED))
    grant = await admit(gateways[0], facts_of(key, 10))
    assert grant
    for _ in range(2 * ASSUMED):
        gateways[0].see(grant, {"choices": [{"delta": {"content": "xyz"}}]})
    assert await total(states[0]) == 2 * ASSUMED + 10
    assert await admit(gateways[1], facts_of(key, ASSUMED)) is None
    gateways[0].record(outcome(facts=grant.facts, usage=Usage(input=10, output=2 * ASSUMED)))
    gateways[0].settle(grant)
    assert await total(states[0]) == 2 * ASSUMED + 10
    await states[0].flush()
    assert set((await states[0].counts("held/")).values()) <= {0}


async def test_a_call_that_waits_for_answers_of_another_gateway_is_told_to_try_again_soon(
    states: tuple[State, State], gateways: tuple[VirtualKeys, VirtualKeys]
) -> None:
    key = await key_with(gateways, Rate(month=100))
    assert await admit(gateways[0], facts_of(key, 10, 60))
    await states[0].flush()
    with pytest.raises(RateLimited, match="answers in progress hold 60") as refused:
        await gateways[1].admit(gateways[1].get(key), facts_of(key, 10, 30))
    assert refused.value.retry_after is not None
    assert refused.value.retry_after <= 1


async def test_a_call_that_waits_for_answers_in_progress_alone_is_told_to_try_again_soon(
    gateways: tuple[VirtualKeys, VirtualKeys],
) -> None:
    key = await key_with(gateways, Rate(month=100))
    facts = facts_of(key, 10, 60)
    assert await admit(gateways[0], facts)
    with pytest.raises(RateLimited, match="answers in progress hold 60") as refused:
        await gateways[0].admit(gateways[0].get(key), facts_of(key, 10, 30))
    assert refused.value.retry_after is not None
    assert refused.value.retry_after <= 1
    with pytest.raises(
        RateLimited, match="of this API key's limit of 100 tokens per month 30 are left"
    ) as refused:
        await gateways[0].admit(gateways[0].get(key), facts_of(key, 10, 90))
    assert refused.value.retry_after is not None
    assert refused.value.retry_after > 60


async def test_what_a_dead_process_held_for_answers_is_given_back_once(states: tuple[State, State]) -> None:
    counter = Counter("rate/k/tokens/day/x", 1000, LATER)
    dying = TokenReservations(states[0], Allowances(states[0]), owner="h/7/1.00")
    states[0].count((counter,), 410)
    dying.hold(TokenGrant(facts_of("k", 10, 400), ((counter, 410),)))
    settled = dying.hold(TokenGrant(facts_of("k", 10, 50), ((counter, 60),)))
    states[0].count((counter,), 60)
    dying.settle(settled)
    await states[0].flush()
    heirs = [TokenReservations(state, Allowances(state), owner="h/8/1.00") for state in states]
    alive = await asyncio.gather(*(heir.recover(LATER, lambda owner, at: False) for heir in heirs))
    assert sum(alive) == 0
    recovered = await asyncio.gather(
        *(heir.recover(LATER, lambda owner, at: owner == "h/7/1.00") for heir in heirs)
    )
    assert sum(recovered) == 400
    assert await total(states[0]) == 10
    assert await heirs[0].recover(LATER, lambda owner, at: True) == 0


async def test_what_a_process_of_another_host_holds_is_given_back_when_it_did_not_change_for_an_hour(
    states: tuple[State, State],
) -> None:
    counter = Counter("rate/k/tokens/month/x", 1000, LATER)
    states[0].count((counter,), 110)
    far = TokenReservations(states[0], Allowances(states[0]), owner="elsewhere/7/1.00")
    far.hold(TokenGrant(facts_of("k", 10, 100), ((counter, 110),)))
    await states[0].flush()
    heir = TokenReservations(states[1], Allowances(states[1]))
    assert await heir.recover(LATER) == 0
    assert await heir.recover(LATER + 3000) == 0
    far.hold(TokenGrant(facts_of("k", 10, 100), ((counter, 110),)))
    states[0].count((counter,), 110)
    await states[0].flush()
    assert await heir.recover(LATER + 4000) == 0
    assert await heir.recover(LATER + 7000) == 0
    assert await heir.recover(LATER + 7601) == 200


async def test_a_key_without_a_limit_of_tokens_reserves_and_writes_nothing(states: tuple[State, State]) -> None:
    keys = VirtualKeys(states[0], ManualClock())
    made = await keys.create("free", limits=KeyLimits(requests=Rate(day=5)))
    assert await keys.admit(made.info, facts_of(made.info.id, 10)) is None
    await states[0].flush()
    assert await states[0].counts("held/") == {}
