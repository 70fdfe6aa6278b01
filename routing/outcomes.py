"""What happened: one record per attempt. Metrics, spend, breakers and learning all read it."""

from __future__ import annotations

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
    ``error`` is the code of a :class:`catalog.errors.RoundhouseError`.
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


class OutcomeSink(Protocol):
    """Somebody who learns from outcomes. ``record`` must be quick, must not block and must not raise."""

    def record(self, outcome: Outcome) -> None: ...
