"""The batched sink: outcomes arrive in order and once, after a short delay; failures at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from routing.outcomes import BatchedSink, Outcome, Result
from tests.routing.outcome_factory import outcome


@dataclass
class RecordingSink:
    traces: list[str] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    expected: int = 1

    def record(self, outcome: Outcome) -> None:
        self.traces.append(outcome.trace)
        if len(self.traces) == self.expected:
            self.enough.set()


async def test_outcomes_are_flushed_together_after_the_delay() -> None:
    sink = RecordingSink(expected=3)
    batched = BatchedSink((sink,), delay=0.01)
    for trace in ("a", "b", "c"):
        batched.record(outcome(trace=trace))
    assert sink.traces == []
    await asyncio.wait_for(sink.enough.wait(), 5)
    assert sink.traces == ["a", "b", "c"]


async def test_an_outcome_after_a_flush_starts_a_new_delay() -> None:
    sink = RecordingSink()
    batched = BatchedSink((sink,), delay=0.001)
    for expected in (1, 2):
        sink.expected = expected
        sink.enough.clear()
        batched.record(outcome(trace=str(expected)))
        await asyncio.wait_for(sink.enough.wait(), 5)
    assert sink.traces == ["1", "2"]


async def test_a_failure_flushes_at_once_and_keeps_the_order() -> None:
    sink = RecordingSink()
    batched = BatchedSink((sink,), delay=3600)
    batched.record(outcome(trace="good"))
    batched.record(outcome(Result.FAILED, trace="bad"))
    assert sink.traces == ["good", "bad"]
    batched.record(outcome(Result.CANNOT, trace="cannot"))
    assert sink.traces == ["good", "bad", "cannot"]


async def test_a_full_batch_is_flushed_at_once() -> None:
    sink = RecordingSink()
    batched = BatchedSink((sink,), delay=3600, max_batch=3)
    for number in range(7):
        batched.record(outcome(trace=str(number)))
    assert sink.traces == ["0", "1", "2", "3", "4", "5"]


async def test_a_flush_reaches_every_sink_and_only_once() -> None:
    first, second = RecordingSink(expected=2), RecordingSink()
    batched = BatchedSink((first, second), delay=0.001)
    batched.record(outcome(trace="a"))
    batched.flush()
    batched.flush()
    assert first.traces == second.traces == ["a"]
    batched.record(outcome(trace="b"))
    await asyncio.wait_for(first.enough.wait(), 5)
    assert first.traces == second.traces == ["a", "b"]


async def test_on_flush_is_called_once_per_batch_and_not_for_an_empty_one() -> None:
    sink, flushed = RecordingSink(), []
    batched = BatchedSink((sink,), delay=3600, on_flush=lambda: flushed.append(list(sink.traces)))
    batched.flush()
    batched.record(outcome(trace="a"))
    batched.record(outcome(trace="b"))
    batched.flush()
    assert flushed == [["a", "b"]]
