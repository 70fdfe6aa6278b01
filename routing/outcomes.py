"""What happened: one record per attempt. Metrics, spend, breakers and learning all read it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from routing.facts import Facts


class Result(StrEnum):
    """How an attempt ended."""

    SUCCESS = "success"
    REFUSAL = "refusal"
    FAILED = "failed"
    CANNOT = "cannot"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


_WRONG = frozenset({Result.FAILED, Result.CANNOT})


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, or what is counted instead; ``known`` is False when the upstream did not say.

    ``input`` contains ``cached`` and ``cache_write``; ``output`` contains ``reasoning``.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    units: float = 0.0
    known: bool = True
    cache_write: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt, from lease to last byte.

    ``REFUSAL`` is the model declining (not a failure); ``CANNOT`` a capability the model lacks;
    ``REJECTED`` the caller's mistake; ``CANCELLED`` the caller left. Times are seconds; ``at`` is of the
    wall clock. ``provider_key`` is the position of the key used in its pool, never the key itself.
    ``error`` is the code of a :class:`catalog.errors.RoundhouseError`. ``whole`` says that the answer was not
    streamed to us: then nobody knows when its first token came, and ``first_chunk`` is None.
    """

    trace: str
    attempt: int
    model: str
    endpoint: str
    facts: Facts
    result: Result
    at: float
    queued: float = 0.0
    first_chunk: float | None = None
    duration: float = 0.0
    usage: Usage = Usage(known=False)
    cost: float | None = None
    finish_reason: str | None = None
    error: str | None = None
    status: int | None = None
    retry_after: float | None = None
    valid: bool | None = None
    provider_key: int | None = None
    whole: bool = False


class OutcomeSink(Protocol):
    """Somebody who learns from outcomes. ``record`` must be quick, must not block and must not raise."""

    def record(self, outcome: Outcome) -> None: ...


class BatchedSink:
    """Outcomes for those who can wait: they are told a moment later, of many at once, when no answer waits for it.

    What went wrong waits for nothing, and takes along what came before it: the next request must know of it.
    ``delay`` is seconds; ``most`` outcomes wait at the most; ``then`` is called when all of them were told. One
    event loop uses it.
    """

    def __init__(
        self,
        sinks: Sequence[OutcomeSink],
        *,
        delay: float = 0.02,
        most: int = 64,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self._sinks = tuple(sinks)
        self._then = then
        self._delay = delay
        self._most = most
        self._waiting: list[Outcome] = []
        self._timer: asyncio.TimerHandle | None = None

    def record(self, outcome: Outcome) -> None:
        """Tell of it soon; makes this an :class:`OutcomeSink`."""
        self._waiting.append(outcome)
        if outcome.result in _WRONG or len(self._waiting) >= self._most:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay, self.flush)

    def flush(self) -> None:
        """Tell what is left, in order."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for outcome in waiting:
            for sink in self._sinks:
                sink.record(outcome)
        if waiting:
            self._then()
