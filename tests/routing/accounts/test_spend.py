"""Spending caps: exact under concurrency, and durable when the process is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from catalog.errors import BudgetExceeded, PriceUnknown
from catalog.model import Capability, Price
from routing.accounts.caps import Caps, SpendSettings
from routing.accounts.costs import to_nano
from routing.accounts.spend import Spend
from routing.accounts.windows import day_of
from routing.facts import Facts
from routing.outcomes import Usage, UsageDetails
from routing.state.protocol import NANO
from routing.state.sqlite import SqliteState
from tests.routing.clocks import ManualClock

ROOT = Path(__file__).parents[3]
PRICE = Price(input=3, output=15, cache_read=0.3, cache_write=3.75)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteState]:
    state = SqliteState(tmp_path / "state.sqlite")
    await state.start()
    yield state
    await state.close()


def spend_with(store: SqliteState, clock: ManualClock, **caps: float) -> Spend:
    return Spend(store, SpendSettings(caps=Caps(**caps)), clock)


async def pay(spend: Spend, amount: float | None, actual: float | None, *, key: str = "alice") -> None:
    async with spend.reserve(key=key, model="model", endpoint="endpoint", amount=amount) as reservation:
        reservation.settle(actual, Usage(input=10, output=5))


async def test_an_estimate_assumes_the_longest_answer_allowed(store: SqliteState) -> None:
    spend = spend_with(store, ManualClock())
    facts = Facts(capability=Capability.CHAT, prompt_tokens=1000)
    assert spend.estimate(PRICE, replace(facts, output_tokens=100)) == pytest.approx(0.003 + 0.0015)
    assert spend.estimate(PRICE, facts) == pytest.approx(0.003 + 1024 * 15e-6)
    assert spend.estimate(Price(), facts) is None
    several = replace(facts, output_tokens=100, choices=4)
    assert spend.estimate(PRICE, several) == pytest.approx(0.003 + 4 * 0.0015)


@pytest.mark.parametrize("restart", [False, True])
async def test_a_cap_counts_what_was_spent_in_its_window_before_it_was_set(
    store: SqliteState, restart: bool
) -> None:
    clock = ManualClock()
    spend = spend_with(store, clock)
    await pay(spend, 9.0, 9.0)
    clock.advance(86_400)  # the day before, in the same month
    await pay(spend, 3.0, 3.0)
    await pay(spend, 1.0, None, key="bob")
    caps = SpendSettings(caps=Caps(day=5.0, hour=5.0, total=50), keys={"alice": Caps(month=14.0)})
    if restart:
        spend = Spend(store, caps, clock)
        await spend.start()
    else:
        spend.configure(caps)
        await spend.catch_up()
    spent = {(row.scope, row.window.value): row.spent for row in spend.cap_usage("alice")}
    assert spent == {
        ("all", "hour"): 0.0,
        ("all", "day"): 4.0,
        ("all", "total"): 13.0,
        ("key/alice", "month"): 12.0,
    }
    with pytest.raises(BudgetExceeded):
        await pay(spend, 1.5, 1.5, key="bob")
    await asyncio.gather(spend.catch_up(), Spend(store, caps, clock).catch_up())
    await pay(spend, 1.0, 1.0, key="bob")
    await spend.refresh()
    assert next(row.spent for row in spend.cap_usage("bob") if row.window == "day") == 5.0, "counted once"


async def test_a_call_that_is_older_than_the_cap_counts_for_it(store: SqliteState) -> None:
    spend = spend_with(store, ManualClock())
    async with spend.reserve(key="alice", model="m", endpoint="e", amount=2.0) as call:
        spend.configure(SpendSettings(caps=Caps(day=5.0)))
        await spend.catch_up()
        call.settle(2.0, Usage(input=1))
    await store.flush()
    await spend.refresh()
    assert spend.cap_usage("alice")[0].spent == 2.0


async def test_two_hundred_concurrent_requests_never_exceed_a_daily_cap_of_one_dollar(store: SqliteState) -> None:
    spend = spend_with(store, ManualClock(), day=1.0)
    held = most = 0
    all_reserved = asyncio.Event()
    asked = 0

    async def request() -> bool:
        nonlocal held, most, asked
        try:
            async with spend.reserve(key="alice", model="m", endpoint="e", amount=0.03) as reservation:
                held += to_nano(0.03)
                most = max(most, held)
                asked += 1
                if asked == 33:
                    all_reserved.set()
                await all_reserved.wait()
                reservation.settle(0.03, Usage(input=1))
                return True
        except BudgetExceeded:
            return False

    served = sum(await asyncio.gather(*(request() for _ in range(200))))
    assert served == 33
    assert most <= NANO
    [row] = await store.usage("0000", "9999")
    assert (row.calls, row.cost) == (33, to_nano(0.99))
    assert (await store.counts("spend/all/day/")).popitem()[1] == to_nano(0.99)


async def test_two_gateways_on_one_store_share_a_cap(tmp_path: Path) -> None:
    stores = [SqliteState(tmp_path / "state.sqlite") for _ in range(2)]
    for store in stores:
        await store.start()
    gateways = [spend_with(store, ManualClock(), day=1.0) for store in stores]

    async def request(spend: Spend) -> bool:
        try:
            await pay(spend, 0.03, 0.03)
        except BudgetExceeded:
            return False
        return True

    served = await asyncio.gather(*(request(gateways[n % 2]) for n in range(200)))
    assert sum(served) == 33
    for store in stores:
        await store.close()


async def test_two_servers_on_one_folder_keep_each_days_cap_exactly_over_three_days(tmp_path: Path) -> None:
    clock = ManualClock()
    stores = [SqliteState(tmp_path / "state.sqlite") for _ in range(2)]
    for store in stores:
        await store.start()
    servers = [spend_with(store, clock, day=1.0) for store in stores]
    paid: dict[str, int] = {}
    for _ in range(3 * 24):
        day = day_of(clock.wall())
        for server in servers:
            try:
                await pay(server, 0.03, 0.03)
            except BudgetExceeded:
                continue
            paid[day] = paid.get(day, 0) + to_nano(0.03)
        clock.advance(3600)
    for store in stores:
        await store.flush()
        booked: dict[str, int] = {}
        for row in await store.usage("0000", "9999"):
            booked[row.day] = booked.get(row.day, 0) + row.cost
        assert booked == paid
        await store.close()
    assert len(paid) >= 3
    assert max(paid.values()) == to_nano(0.99), "the cap of a whole day is used, and not passed"
    assert min(list(paid.values())[1:-1]) == to_nano(0.99)


async def test_an_estimate_of_a_request_without_an_answer_has_the_margin_of_its_prompt(store: SqliteState) -> None:
    spend = Spend(store, SpendSettings(), ManualClock())
    facts = Facts(capability=Capability.EMBED, prompt_tokens=1000)
    assert spend.estimate(Price(input=1), facts) == pytest.approx((1150 + 16) / 1e6)


@pytest.mark.parametrize(
    ("prices", "features", "dearest"),
    [
        ({}, (), 3),
        ({"cache_write": 3.75}, (), 3.75),
        ({"cache_write": 3.75, "cache_write_long": 6}, (), 6),
        ({"cache_write": 2, "cache_write_long": 1}, (), 3),
        ({"cache_write": 6, "cache_write_long": 1}, (), 6),
        ({"cache_write": 3.75, "image_input": 9}, (), 3.75),
        ({"cache_write": 3.75, "image_input": 9}, (Capability.VISION,), 9),
        ({"cache_write": 3.75, "audio_input": 32}, (Capability.AUDIO_INPUT,), 32),
        ({"cache_write": 40, "audio_input": 32}, (Capability.AUDIO_INPUT,), 40),
        ({"cache_write": 3.75, "long": {"above": 1000, "input": 12}}, (), 15),
    ],
)
async def test_a_prompt_is_reserved_at_the_dearest_that_its_tokens_may_cost(
    store: SqliteState, prices: dict[str, Any], features: tuple[Capability, ...], dearest: float
) -> None:
    spend = spend_with(store, ManualClock(), day=1.0)
    facts = Facts(capability=Capability.CHAT, prompt_tokens=1000, output_tokens=100, features=frozenset(features))
    price = Price(input=3, output=15, **prices)
    reserved = spend.estimate(price, facts)
    assert reserved == pytest.approx((1150 + 16) * dearest / 1e6 + 100 * 15 / 1e6)
    assert spend.estimate(price, replace(facts, output_tokens=None), 100) == reserved


async def test_no_use_of_a_cache_costs_more_than_what_was_reserved(store: SqliteState) -> None:
    spend = spend_with(store, ManualClock(), day=1.0)
    price = Price(input=3, output=15, cache_read=0.3, cache_write=3.75, cache_write_long=6)
    reserved = spend.estimate(price, Facts(capability=Capability.CHAT, prompt_tokens=1000, output_tokens=100))
    assert reserved is not None
    for written, long in ((0, 0), (1000, 0), (1000, 1000), (1150, 400)):
        usage = Usage(1150, 100, cache_write=written, details=UsageDetails(cache_write_long=long))
        cost, unknown = spend.cost(price, usage, Capability.CHAT)
        assert cost is not None
        assert (cost <= reserved, unknown) == (True, ())


async def test_a_prompt_whose_text_has_no_price_stays_unknown(store: SqliteState) -> None:
    spend = spend_with(store, ManualClock(), day=1.0)
    facts = Facts(capability=Capability.CHAT, prompt_tokens=1000, output_tokens=100)
    assert spend.estimate(Price(output=15, cache_write=3), facts) is None


async def test_settling_below_the_estimate_releases_the_rest(store: SqliteState) -> None:
    spend = spend_with(store, ManualClock(), day=1.0)
    await pay(spend, 1.0, 0.25)
    assert spend.headroom("alice") == 0.75
    await pay(spend, 0.75, 0.75)
    with pytest.raises(BudgetExceeded):
        await pay(spend, 0.000001, 0.0)


async def test_an_unknown_cost_counts_the_reserved_amount_and_is_reported_as_unknown(store: SqliteState) -> None:
    spend = spend_with(store, ManualClock(), day=1.0)
    await pay(spend, 0.4, None)
    assert spend.headroom("alice") == 0.6
    [row] = await store.usage("0000", "9999")
    assert (row.calls, row.unknown, row.cost, row.estimated) == (1, 1, 0, to_nano(0.4))


async def test_leaving_without_settling_releases_the_money_because_no_call_was_made(store: SqliteState) -> None:
    spend = spend_with(store, ManualClock(), day=1.0)
    with pytest.raises(RuntimeError):
        async with spend.reserve(key="alice", model="m", endpoint="e", amount=1.0):
            raise RuntimeError
    assert spend.headroom("alice") == 1.0
    assert await store.usage("0000", "9999") == []
    await pay(spend, 1.0, 1.0)


@pytest.mark.parametrize(
    ("window", "seconds"), [("minute", 60), ("hour", 3600), ("day", 86_400), ("month", 31 * 86_400)]
)
async def test_a_used_up_window_names_its_end_and_then_resets(
    store: SqliteState, window: str, seconds: float
) -> None:
    clock = ManualClock()
    spend = spend_with(store, clock, **{window: 1.0})
    await pay(spend, 1.0, 1.0)
    with pytest.raises(BudgetExceeded) as refused:
        await pay(spend, 0.5, 0.5)
    wait = refused.value.retry_after
    assert wait is not None
    assert 0 < wait <= seconds
    clock.advance(wait + 0.001)
    await pay(spend, 0.5, 0.5)


async def test_setting_the_clock_back_does_not_restart_a_day(store: SqliteState) -> None:
    clock = ManualClock()
    spend = spend_with(store, clock, day=1.0)
    await pay(spend, 1.0, 1.0)
    clock.set_wall(clock.wall() - 86_400)
    with pytest.raises(BudgetExceeded):
        await pay(spend, 0.5, 0.5)
    clock.advance(86_400)
    await pay(spend, 0.5, 0.5)


async def test_a_request_above_its_own_cap_is_refused_and_waiting_would_not_help(store: SqliteState) -> None:
    with pytest.raises(BudgetExceeded) as refused:
        await pay(spend_with(store, ManualClock(), request=0.1), 0.100001, 0.1)
    assert refused.value.retry_after is None


@pytest.mark.parametrize(
    ("caps", "spent", "amount", "told", "waits"),
    [
        (
            {"day": 0.0},
            0,
            0.1,
            r"may cost \$0\.10, more than the spending cap of .* \(\$0\.00 per day\)",
            False,
        ),
        ({"day": 0.001}, 0, 0.0025, r"may cost \$0\.0025, more than .* \(\$0\.001 per day\) allows at all", False),
        ({"hour": 1.0}, 0.75, 0.5, r"may cost \$0\.50, and of the .* \(\$1\.00 per hour\) \$0\.25 are left", True),
        (
            {"minute": 1.0},
            1.0,
            0.5,
            r"gateway \(\$1\.00 per minute\) is used up\. The next minute",
            True,
        ),
        ({"total": 1.0}, 1.0, 0.5, r"^The total spending cap of this gateway \(\$1\.00\) is used up\.$", False),
        ({"request": 0.1}, 0, 0.5, r"may cost \$0\.50, more than the \$0\.10 allowed for one request", False),
    ],
)
async def test_a_refusal_says_what_the_request_may_cost_and_what_is_left_and_waits_only_where_that_helps(
    store: SqliteState, caps: dict[str, float], spent: float, amount: float, told: str, waits: bool
) -> None:
    spend = spend_with(store, ManualClock(), **caps)
    if spent:
        await pay(spend, spent, spent)
    with pytest.raises(BudgetExceeded, match=told) as refused:
        await pay(spend, amount, amount)
    assert (refused.value.retry_after is not None) is waits


async def test_a_call_that_another_gateway_left_no_money_for_is_told_so(
    store: SqliteState,
) -> None:
    one, other = (spend_with(store, ManualClock(), day=1.0) for _ in range(2))
    await pay(one, 0.9, 0.9)
    with pytest.raises(BudgetExceeded, match="is used up"):
        await pay(other, 0.2, 0.2)


async def test_caps_of_keys_are_their_own(store: SqliteState) -> None:
    caps = SpendSettings(per_key=Caps(day=1.0), keys={"bob": Caps(day=2.0)})
    own = {"carol": Caps(day=0.5)}
    spend = Spend(store, caps, ManualClock(), key_caps=own.get)
    await pay(spend, 1.0, 1.0, key="alice")
    with pytest.raises(BudgetExceeded, match="this API key"):
        await pay(spend, 0.1, 0.1, key="alice")
    await pay(spend, 2.0, 2.0, key="bob")
    assert spend.headroom("carol") == 0.5
    assert {(one.scope, one.cap, one.spent) for one in spend.cap_usage("bob")} == {("key/bob", 2.0, 2.0)}


async def test_a_cap_refuses_an_unknown_price_unless_the_settings_allow_it(store: SqliteState) -> None:
    with pytest.raises(PriceUnknown):
        await pay(spend_with(store, ManualClock(), day=1.0), None, None)
    lenient = Spend(store, SpendSettings(caps=Caps(day=1.0), unknown_price="allow"), ManualClock())
    await pay(lenient, None, 0.25)
    assert lenient.headroom("alice") == 0.75


async def test_a_free_call_passes_a_cap_that_is_used_up(store: SqliteState) -> None:
    spend = spend_with(store, ManualClock(), day=1.0)
    await pay(spend, 1.0, 1.0)
    await pay(spend, 0.0, 0.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 400) | st.none()), max_size=40))
async def test_headroom_is_the_cap_less_what_every_settled_call_cost(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[int, int | None]]
) -> None:
    store = SqliteState(tmp_path_factory.mktemp("spend") / "state.sqlite")
    await store.start()
    spend = spend_with(store, ManualClock(), day=1.0)
    spent = 0

    async def call(amount: int, actual: int | None) -> None:
        nonlocal spent
        try:
            await pay(spend, amount / 1000, None if actual is None else actual / 1000)
        except BudgetExceeded:
            return
        spent += amount if actual is None else actual

    await asyncio.gather(*(call(*one) for one in calls))
    assert spend.headroom("alice") == max(0, 1000 - spent) / 1000
    again = spend_with(store, ManualClock(), day=1.0)
    await again.start()
    assert again.headroom("alice") == spend.headroom("alice")
    rows = await store.usage("0000", "9999")
    assert sum(row.cost + row.estimated for row in rows) == spent * 1_000_000
    await store.close()


async def test_a_caller_who_leaves_while_the_store_is_locked_leaves_no_hold(
    store: SqliteState, tmp_path: Path
) -> None:
    spend = Spend(store, SpendSettings(caps=Caps(day=1.0), store_timeout=60), ManualClock())
    locker = sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    asking = asyncio.create_task(pay(spend, 1.0, 1.0))
    while spend.headroom("alice") != 0:
        await asyncio.sleep(0)
    asking.cancel()
    with capture_logs(), pytest.raises(asyncio.CancelledError):
        await asking
    locker.execute("COMMIT")
    locker.close()
    assert spend.headroom("alice") == 1.0
    assert set((await store.counts("spend/")).values()) == {0}
    await pay(spend, 1.0, 1.0)


async def test_a_locked_store_delays_a_capped_call_no_longer_than_store_timeout(
    store: SqliteState, tmp_path: Path
) -> None:
    spend = Spend(store, SpendSettings(caps=Caps(day=1.0), store_timeout=0.05), ManualClock())
    locker = sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with capture_logs():
        await asyncio.wait_for(pay(spend, 0.6, 0.6), 5)
        with pytest.raises(BudgetExceeded):
            await pay(spend, 0.6, 0.6)
        locker.execute("COMMIT")
        locker.close()
        await store.flush()
    [row] = await store.usage("0", "9")
    assert (row.calls, row.cost) == (1, to_nano(0.6))
    assert set((await store.counts("spend/")).values()) == {to_nano(0.6)}


# ---- after a kill

_CHILD = """
import asyncio, sys
from pathlib import Path
from typing import Any
from routing.clock import SystemClock
from routing.outcomes import Usage, UsageDetails
from routing.accounts.caps import Caps, SpendSettings
from routing.accounts.spend import Spend
from routing.accounts.windows import day_of
from routing.state.sqlite import SqliteState

async def main() -> None:
    store = SqliteState(Path(sys.argv[1]))
    await store.start()
    spend = Spend(store, SpendSettings(caps=Caps(total=1000.0)), SystemClock())
    await spend.start()
    async def call(number: int) -> None:
        async with spend.reserve(key="k", model="m", endpoint="e", amount=0.05) as reservation:
            if number % 10 == 0:
                print("held", flush=True)
                await asyncio.Event().wait()
            reservation.settle(0.01 + number / 1_000_000, Usage(input=1))
        print("paid", number, flush=True)
    await asyncio.gather(*(call(number) for number in range(200)))
asyncio.run(main())
"""


def run_until_killed(path: Path) -> tuple[int, int]:
    """The numbers of calls held and of calls paid when the child was killed with SIGKILL."""
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    paid = held = 0
    with child.stdout:
        while held + paid < 200 and (line := child.stdout.readline()):
            held += line.startswith("held")
            paid += line.startswith("paid")
        os.kill(child.pid, signal.SIGKILL)
    child.wait()
    return held, paid


async def test_spend_adds_up_to_the_cent_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    assert await asyncio.to_thread(run_until_killed, path) == (20, 180)
    paid = sum(to_nano(0.01 + number / 1_000_000) for number in range(200) if number % 10)

    store = SqliteState(path)
    await store.start()
    spend = Spend(store, SpendSettings(caps=Caps(total=1000.0)), ManualClock())
    await spend.start()
    [row] = await store.usage("0000", "9999")
    assert (row.calls, row.unknown) == (200, 20)
    assert row.cost == paid
    assert row.estimated == to_nano(0.05) * 20
    assert spend.headroom("k") == (to_nano(1000) - paid - to_nano(0.05) * 20) / NANO
    await store.close()
