"""Outcomes for those who can wait: told of soon, in order, once; what went wrong is told at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from routing.outcomes import BatchedSink, Outcome, Result
from tests.routing.outcome_factory import outcome


@dataclass
class Heard:
    traces: list[str] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    expected: int = 1

    def record(self, outcome: Outcome) -> None:
        self.traces.append(outcome.trace)
        if len(self.traces) == self.expected:
            self.enough.set()


async def test_an_outcome_is_told_a_moment_later_together_with_the_next_ones() -> None:
    heard = Heard(expected=3)
    behind = BatchedSink((heard,), delay=0.01)
    for trace in ("a", "b", "c"):
        behind.record(outcome(trace=trace))
    assert heard.traces == []
    await asyncio.wait_for(heard.enough.wait(), 5)
    assert heard.traces == ["a", "b", "c"]


async def test_what_comes_after_a_moment_has_a_moment_of_its_own() -> None:
    heard = Heard()
    behind = BatchedSink((heard,), delay=0.001)
    for expected in (1, 2):
        heard.expected = expected
        heard.enough.clear()
        behind.record(outcome(trace=str(expected)))
        await asyncio.wait_for(heard.enough.wait(), 5)
    assert heard.traces == ["1", "2"]


async def test_a_failure_waits_for_nothing_and_keeps_the_order() -> None:
    heard = Heard()
    behind = BatchedSink((heard,), delay=3600)
    behind.record(outcome(trace="good"))
    behind.record(outcome(Result.FAILED, trace="bad"))
    assert heard.traces == ["good", "bad"]
    behind.record(outcome(Result.CANNOT, trace="cannot"))
    assert heard.traces == ["good", "bad", "cannot"]


async def test_no_more_than_so_many_wait() -> None:
    heard = Heard()
    behind = BatchedSink((heard,), delay=3600, most=3)
    for number in range(7):
        behind.record(outcome(trace=str(number)))
    assert heard.traces == ["0", "1", "2", "3", "4", "5"]


async def test_flushing_tells_the_rest_to_everybody_and_only_once() -> None:
    first, second = Heard(expected=2), Heard()
    behind = BatchedSink((first, second), delay=0.001)
    behind.record(outcome(trace="a"))
    behind.flush()
    behind.flush()
    assert first.traces == second.traces == ["a"]
    behind.record(outcome(trace="b"))
    await asyncio.wait_for(first.enough.wait(), 5)
    assert first.traces == second.traces == ["a", "b"]


async def test_what_follows_is_done_once_for_all_that_was_told_and_not_for_nothing() -> None:
    heard, followed = Heard(), []
    behind = BatchedSink((heard,), delay=3600, then=lambda: followed.append(list(heard.traces)))
    behind.flush()
    behind.record(outcome(trace="a"))
    behind.record(outcome(trace="b"))
    behind.flush()
    assert followed == [["a", "b"]]
