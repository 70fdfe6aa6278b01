"""Outcomes: one record per attempt, read by metrics, logs, traces, key limits, breakers and learning.

Money is not charged from outcomes: an attempt settles its :class:`~routing.accounts.spend.Reservation` before it
records its outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from routing.facts import Facts


class Result(StrEnum):
    """Result of an attempt."""

    SUCCESS = "success"
    REFUSAL = "refusal"
    FAILED = "failed"
    CANNOT = "cannot"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


_FAILURES = frozenset({Result.FAILED, Result.CANNOT})


@dataclass(frozen=True, slots=True)
class UsageDetails:
    """Details that prices differ by, besides cached and written tokens.

    ``cache_write_long`` is the part of ``cache_write`` kept for hours. The tokens of sound and pictures are parts
    of the input and the output. ``web_searches`` and ``containers`` are what the provider ran for the answer,
    ``unpriced`` the names of tools that it ran and that rows have no price for.
    ``tiers`` names the service, speed and region where they are not standard, as in the row's price.
    """

    cache_write_long: int = 0
    audio_input: int = 0
    image_input: int = 0
    audio_output: int = 0
    image_output: int = 0
    web_searches: int = 0
    containers: int = 0
    tiers: tuple[str, ...] = ()
    unpriced: tuple[str, ...] = ()

    @property
    def prompt(self) -> tuple[int, int, int]:
        """The details of the prompt: ``cache_write_long``, ``audio_input`` and ``image_input``."""
        return self.cache_write_long, self.audio_input, self.image_input


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and units used; ``known`` is False when the upstream did not report them.

    ``input`` contains ``cached`` and ``cache_write``; ``output`` contains ``reasoning``.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    units: float = 0.0
    known: bool = True
    cache_write: int = 0
    details: UsageDetails | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt, from lease to last byte.

    ``REFUSAL``: the model declined, which is no failure; ``CANNOT``: its server said that it lacks something;
    ``REJECTED``: the request was wrong; ``CANCELLED``: the caller left. Times are seconds; ``at`` is wall-clock
    time. ``provider_key`` is the position of the key in its pool, never the key itself. ``error`` is the code of
    a :class:`catalog.errors.RoundhouseError`. ``cost`` is the known part in dollars, ``unknown_parts`` names the
    others (:class:`routing.accounts.costs.Cost`). ``unstreamed`` marks an answer that the upstream did not stream:
    the time of its first token is unknown, so ``first_chunk`` is None. ``lacks`` are the capabilities and
    parameters that the model was said to lack; ``scope`` is what a rate limit or a refused key applies to.
    ``bound`` is the length to which a limit on cost or tokens held the answer, and the limit's name.
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
    unknown_parts: tuple[str, ...] = ()
    finish_reason: str | None = None
    error: str | None = None
    status: int | None = None
    retry_after: float | None = None
    valid: bool | None = None
    provider_key: int | None = None
    unstreamed: bool = False
    lacks: frozenset[str] = frozenset()
    scope: Literal["model", "key"] | None = None
    bound: str | None = None


class OutcomeSink(Protocol):
    """Receives outcomes. ``record`` must be quick, must not block and must not raise."""

    def record(self, outcome: Outcome) -> None: ...


class BatchedSink:
    """Buffers outcomes for slow sinks and flushes them in batches, off the request's path.

    A batch is flushed ``delay`` seconds after its first outcome, at ``max_batch`` outcomes, and at once by a
    failure, which must affect the next request. ``on_flush`` is called after each batch. One event loop uses it.
    """

    def __init__(
        self,
        sinks: Sequence[OutcomeSink],
        *,
        delay: float = 0.02,
        max_batch: int = 64,
        on_flush: Callable[[], None] = lambda: None,
    ) -> None:
        self._sinks = tuple(sinks)
        self._on_flush = on_flush
        self._delay = delay
        self._max_batch = max_batch
        self._buffer: list[Outcome] = []
        self._timer: asyncio.TimerHandle | None = None

    def record(self, outcome: Outcome) -> None:
        """Buffer an outcome; makes this an :class:`OutcomeSink`."""
        self._buffer.append(outcome)
        if outcome.result in _FAILURES or len(self._buffer) >= self._max_batch:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay, self.flush)

    def flush(self) -> None:
        """Pass the buffered outcomes to every sink, in order."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._buffer = self._buffer, []
        for outcome in batch:
            for sink in self._sinks:
                sink.record(outcome)
        if batch:
            self._on_flush()
