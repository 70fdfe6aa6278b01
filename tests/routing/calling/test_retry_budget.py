"""The retry budget: no storm when everything is down, no refusal when the second choice is well."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from routing.calling.retry_budget import RetryBudget, RetrySettings
from routing.outcomes import Result
from tests.routing.clocks import ManualClock
from tests.routing.outcome_factory import outcome


def budget(clock: ManualClock | None = None, **settings: float) -> RetryBudget:
    return RetryBudget(RetrySettings.model_validate(settings), clock or ManualClock())


def test_with_everything_down_calls_are_at_most_a_fifth_more_than_requests() -> None:
    retries, calls = budget(), 0
    for _ in range(100):
        retries.deposit()
        calls += 1
        while retries.spend():
            calls += 1
            retries.record(outcome(Result.FAILED, attempt=2))
    assert calls <= 120


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=50, max_size=400))
def test_failed_retries_never_pass_their_share_of_any_window(steps: list[tuple[bool, float]]) -> None:
    clock = ManualClock()
    retries = budget(clock)
    requests: list[float] = []
    failed: list[float] = []
    for well, pause in steps:
        clock.advance(pause)
        retries.deposit()
        requests.append(clock.monotonic())
        if retries.spend():
            retries.settle(well)
            if not well:
                failed.append(clock.monotonic())
        recent = clock.monotonic() - 9.0
        offered = sum(at > recent - 1.0 for at in requests)
        assert sum(at > recent for at in failed) <= max(10, offered * 0.2 + 1)


async def test_a_burst_whose_first_choice_is_down_all_reaches_the_second() -> None:
    retries = budget()
    under_way = most = 0

    async def request() -> bool:
        nonlocal under_way, most
        retries.deposit()
        await asyncio.sleep(0)
        if not await retries.acquire():
            return False
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        retries.record(outcome(Result.SUCCESS, attempt=2))
        return True

    assert all(await asyncio.gather(*(request() for _ in range(100))))
    assert most <= 20


async def test_a_burst_with_everything_down_ends_at_once_within_the_budget() -> None:
    retries, calls = budget(), 0

    async def request() -> None:
        nonlocal calls
        retries.deposit()
        calls += 1
        await asyncio.sleep(0)
        while await retries.acquire():
            calls += 1
            await asyncio.sleep(0)
            retries.record(outcome(Result.FAILED, attempt=2))

    await asyncio.wait_for(asyncio.gather(*(request() for _ in range(100))), 5)
    assert calls <= 120


def test_a_quiet_gateway_can_fall_back_too() -> None:
    retries = budget()
    retries.deposit()
    assert retries.spend()


def test_the_window_slides() -> None:
    clock = ManualClock()
    retries = budget(clock, minimum=1)
    assert retries.spend()
    assert not retries.spend()
    clock.advance(11.0)
    assert retries.spend()


def test_first_attempts_are_no_retries() -> None:
    retries = budget(minimum=1)
    assert retries.spend()
    retries.record(outcome(Result.SUCCESS, attempt=1))
    assert not retries.spend()


async def test_who_waits_is_refused_as_soon_as_the_last_retry_under_way_has_failed() -> None:
    retries = budget(minimum=1)
    assert retries.spend()
    waiting = asyncio.create_task(retries.acquire())
    await asyncio.sleep(0)
    assert not waiting.done()
    retries.settle(False)
    assert await asyncio.wait_for(waiting, 5) is False
