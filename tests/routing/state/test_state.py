"""The contract that every store of the state fulfils."""

from __future__ import annotations

import asyncio

from backends.wire.chat import Message
from catalog.model import Capability
from routing.facts import Facts
from routing.outcomes import Result, Usage
from routing.prefix import Prefix
from routing.state.protocol import (
    LASTING,
    Counter,
    OutcomeQuery,
    UsageRow,
    owner_is_gone,
    process_name,
)
from tests.routing.outcome_factory import outcome
from tests.routing.state.stores import (
    DAY,
    LATER,
    NOW,
    OPEN,
    TOTAL,
    Opener,
    charge,
    hold,
)


async def test_documents_are_put_replaced_deleted_and_outlive_the_process(opener: Opener) -> None:
    state = await opener()
    state.put("pin", "auto", {"model": "a"})
    state.put("pin", "auto", {"model": "b"})
    state.put("pin", "old", {"model": "c"}, expires_at=1.0)
    state.put("pin", "gone", {})
    state.put("pin", "gone", None)
    state.put("other", "auto", [1])
    await state.flush()
    again = await opener()
    assert await again.documents("pin") == {"auto": {"model": "b"}}
    assert await again.documents("nothing") == {}
    assert await again.document("pin", "auto") == {"model": "b"}
    assert [await again.document("pin", name) for name in ("old", "gone", "never")] == [None] * 3
    await again.store("pin", "auto", {"model": "c"})
    assert await again.document("pin", "auto") == {"model": "c"}


async def test_counters_add_up_across_gateways(opener: Opener) -> None:
    states = [await opener(), await opener()]
    for state in states:
        for _ in range(50):
            state.count((OPEN, Counter("rate/x")), 2)
        await state.flush()
    assert await states[0].counts("spend/") == {OPEN.name: 200}
    assert await states[0].counts("rate/x") == {"rate/x": 200}


async def test_a_hold_is_taken_whole_or_not_at_all(opener: Opener) -> None:
    state = await opener()
    assert await state.hold(hold(1, 60), 5) is None
    assert await state.hold(hold(2, 41), 5) == DAY
    assert await state.counts("spend/") == {DAY.name: 60, TOTAL.name: 60, OPEN.name: 60}
    assert await state.hold(hold(3, 40), 5) is None


async def test_concurrent_holds_of_two_gateways_never_pass_the_limit(opener: Opener) -> None:
    states = [await opener(), await opener()]
    refusals = await asyncio.gather(
        *(states[n % 2].hold(hold(n, 3, owner=f"gateway{n % 2}"), 10) for n in range(200))
    )
    assert refusals.count(None) == 33
    assert (await states[0].counts("spend/"))[DAY.name] == 99


async def test_a_charge_replaces_its_hold_and_adds_to_the_usage(opener: Opener) -> None:
    state = await opener()
    taken = hold(1, 60)
    await state.hold(taken, 5)
    await state.charge(charge(taken, 25, input=7))
    await state.charge(charge(None, 5, input=1))
    assert (await state.counts("spend/"))[DAY.name] == 30
    row = UsageRow("2027-01-15", "m", "e", "a", calls=2, cost=30, input=8)
    assert await (await opener()).usage("2027-01-01", "2027-01-31") == [row]
    assert await state.usage("2027-01-16", "2027-01-31") == []


async def test_a_charge_of_one_name_counts_once(opener: Opener) -> None:
    state, again = await opener(), await opener()
    named = charge(None, 25, input=7)._replace(once="batch-1")
    for store in (state, state, again):
        await store.charge(named)
    await state.charge(named._replace(once="batch-2"))
    uncapped = named._replace(once="batch-3", counters=())
    for store in (state, again):
        await store.charge(uncapped)
    assert (await state.counts("spend/"))[DAY.name] == 50
    assert [row.calls for row in await state.usage("2027-01-01", "2027-01-31")] == [3]


async def test_a_charge_for_a_hold_that_the_store_refused_counts_in_full(opener: Opener) -> None:
    state = await opener()
    taken = hold(1, 101)
    assert await state.hold(taken, 5) == DAY
    await state.charge(charge(taken, 10))
    assert (await state.counts("spend/"))[DAY.name] == 10


async def test_holds_of_dead_processes_become_estimated_usage_and_stay_counted(opener: Opener) -> None:
    state = await opener()
    await state.hold(hold(1, 30, owner="dead"), 5)
    await state.hold(hold(2, 20, owner="alive"), 5)
    again = await opener()
    assert await again.recover(lambda owner, at: owner == "dead" and at == NOW) == 1
    assert await again.recover(lambda owner, _: owner == "dead") == 0
    [row] = await again.usage("0", "9")
    assert (row.calls, row.unknown, row.cost, row.estimated) == (1, 1, 0, 30)
    assert (await again.counts("spend/"))[DAY.name] == 50


async def test_outcomes_are_read_newest_first_by_time_or_trace(opener: Opener) -> None:
    state = await opener()
    for number in range(5):
        state.add_outcome(
            outcome(Result.SUCCESS, trace=f"t{number % 2}", at=NOW + number, usage=Usage(input=number))
        )
    found = await state.outcomes(OutcomeQuery(since=NOW + 1, until=NOW + 4))
    assert [one["at"] - NOW for one in found] == [3, 2, 1]
    assert [one["usage"]["input"] for one in await state.outcomes(OutcomeQuery(trace="t1"))] == [3, 1]
    assert len(await state.outcomes(OutcomeQuery(limit=2))) == 2


async def test_the_prompt_of_an_outcome_is_not_stored(opener: Opener) -> None:
    state = await opener()
    prefix = Prefix("", [Message(role="user", content="a secret of the caller")])
    state.add_outcome(outcome(facts=Facts(capability=Capability.CHAT, prefix=prefix)))
    (found,) = await state.outcomes(OutcomeQuery())
    assert found["facts"]["prefix"] is None


async def test_old_outcomes_and_expired_documents_are_pruned(opener: Opener) -> None:
    state = await opener()
    state.add_outcome(outcome(at=NOW))
    state.add_outcome(outcome(at=NOW + 10))
    state.put("trace", "new", {}, expires_at=LATER)
    state.put("trace", "kept", {})
    await state.prune(outcomes_before=NOW + 5, now=NOW)
    assert [one["at"] for one in await state.outcomes(OutcomeQuery())] == [NOW + 10]
    assert set(await state.documents("trace")) == {"new", "kept"}


def test_a_lasting_hold_is_that_of_lost_work_after_a_long_time_alone() -> None:
    assert not owner_is_gone(LASTING, NOW, now=NOW + 30 * 86_400)
    assert owner_is_gone(LASTING, NOW, now=NOW + 41 * 86_400)


def test_a_process_of_this_host_is_known_to_be_gone() -> None:
    me = process_name()
    host, _, _ = me.split("/")
    assert not owner_is_gone(me, NOW, now=NOW + 10**6)
    assert owner_is_gone(f"{host}/{2**22 + 1}/1.00", NOW, now=NOW)
    assert owner_is_gone(f"{host}/{me.split('/')[1]}/12345.00", NOW, now=NOW)
    assert not owner_is_gone("elsewhere/1/1.00", NOW, now=NOW + 60)
    assert owner_is_gone("elsewhere/1/1.00", NOW, now=NOW + 3601)
