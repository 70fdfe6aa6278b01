"""Lease, call, fall back, record: the one place where a plan becomes calls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

from backends.base import Upstream
from catalog.errors import (
    CapabilityMismatch,
    ContextLengthExceeded,
    EngineMissing,
    ModelUnavailable,
    NoCandidate,
    RoundhouseError,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRejectedKey,
    UpstreamUnreachable,
)
from catalog.model import Model
from routing.accounts.spend import Spend
from routing.calling.attempt import Attempt
from routing.calling.judgement import MakeJudge
from routing.calling.lease import Leases
from routing.calling.retry_budget import RetryBudget
from routing.calling.traces import Traces
from routing.clock import Clock
from routing.facts import Facts
from routing.outcomes import BatchedSink, Outcome, OutcomeSink
from routing.plan import Candidate, Plan, Strategy
from routing.upstreams.breaker import Breakers

T = TypeVar("T")
Call = Callable[[Any, Upstream, Model], AsyncIterator[T]]
Planner = Callable[[Facts], Plan]

_ANOTHER_KEY = (UpstreamRateLimited, UpstreamRejectedKey)
_PASSING = frozenset({"breaker_open", "keys_resting"})
"""Why a model is excluded for a moment only, so that trying again may help."""
_ANOTHER_MODEL = (ContextLengthExceeded, CapabilityMismatch)


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """One request: its facts, and how to ask a backend for the answer.

    ``protocol`` is the capability protocol of :mod:`backends.base` that the backend must have. ``call`` is
    given the backend, the upstream and the catalogue row, and returns the items of the answer. ``judge``
    makes who reads an attempt's answer and says whether it is what was asked for: its outcome tells, and when
    the caller allows escalation an invalid answer is kept back and the next candidate asked.
    """

    facts: Facts
    protocol: type
    request: Any
    call: Call[T]
    trace: str
    judge: MakeJudge | None = None


class Answer(Generic[T]):
    """An answer whose first item is there: iterate it for the items, in order."""

    def __init__(self, attempt: Attempt[T], reason: str) -> None:
        self.attempt = attempt
        self.trace = attempt.job.trace
        self.model = attempt.model
        self.reason = reason
        self.attempts = attempt.number
        self.dropped = attempt.dropped

    def headers(self) -> dict[str, str]:
        """``x-roundhouse-model``, ``-trace``, ``-reason``, ``-attempts`` and, when it applies, ``-dropped``."""
        headers = {
            "x-roundhouse-model": self.model.id,
            "x-roundhouse-trace": self.trace,
            "x-roundhouse-reason": self.reason.encode("ascii", "replace").decode().replace("\n", " "),
            "x-roundhouse-attempts": str(self.attempts),
        }
        if self.dropped:
            headers["x-roundhouse-dropped"] = ", ".join(self.dropped)
        return headers

    def __aiter__(self) -> AsyncIterator[T]:
        return self.attempt.items()


class Opening(Generic[T]):
    """An answer while the block lasts; see :meth:`Dispatcher.open`."""

    __slots__ = ("_answer", "_house", "_job")

    def __init__(self, house: Dispatcher, job: Job[T]) -> None:
        self._house = house
        self._job = job
        self._answer: Answer[T] | None = None

    async def __aenter__(self) -> Answer[T]:
        self._answer = answer = await self._house.begin(self._job)
        return answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._answer is not None
        await self._house.end(self._answer.attempt, error)


async def once(awaitable: Awaitable[T]) -> AsyncIterator[T]:
    """The items of an answer that is one object."""
    yield await awaitable


class Dispatcher:
    """Walks a plan until a candidate's first item arrives; after that, never another candidate."""

    def __init__(
        self,
        *,
        planner: Planner,
        leases: Leases,
        backends: Mapping[str, Any],
        breakers: Breakers,
        spend: Spend,
        retries: RetryBudget,
        traces: Traces,
        sinks: Sequence[OutcomeSink],
        clock: Clock,
        later: Sequence[OutcomeSink] = (),
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """``sinks`` are told of an outcome at once, ``later`` a moment after it; ``then`` follows."""
        self.clock = clock
        self.leases = leases
        self.spend = spend
        self._plan = planner
        self._backends = backends
        self._breakers = breakers
        self._retries = retries
        self._traces = traces
        self._behind = BatchedSink(later, on_flush=then)
        self._sinks = (*sinks, self._behind) if later else tuple(sinks)
        self._speaks: dict[tuple[str, type], bool] = {}
        self._closing: set[asyncio.Task[Any]] = set()

    def open(self, job: Job[T]) -> Opening[T]:
        """To be entered: then the first item has arrived, or the last candidate's error is raised.

        Leaving the block, for whatever reason, closes the upstream, gives everything back and records the
        attempt's one outcome. Cancelling while entering does the same.

        Raises NoCandidate or ModelUnavailable when the plan is empty, else what the last attempt raised.
        """
        return Opening(self, job)

    async def begin(self, job: Job[T]) -> Answer[T]:
        """The answer of the first candidate that gives one. Its attempt is to be closed."""
        plan = self._plan(job.facts)
        self._traces.start(job.trace, job.facts, plan)
        self._retries.deposit()
        try:
            attempt = await self._first_answer(job, plan)
        except BaseException as error:
            self._finish(job, error)
            raise
        return Answer(attempt, _reason(attempt, plan))

    async def end(self, attempt: Attempt[T], error: BaseException | None) -> None:
        """Close the attempt that answered; ``error`` is what ended its use, if anything did."""
        try:
            await attempt.close(error)
        finally:
            self._finish(attempt.job, error)

    def _finish(self, job: Job[T], error: BaseException | None) -> None:
        self._traces.finish(job.trace, error if isinstance(error, RoundhouseError) else None)

    def explain(self, facts: Facts) -> Plan:
        """What :meth:`open` would try, without doing it, by all that is known."""
        self._behind.flush()
        return self._plan(facts)

    async def _first_answer(self, job: Job[T], plan: Plan) -> Attempt[T]:
        queue = deque(plan.candidates)
        leased_again: set[str] = set()
        number = 0
        failed: list[str] = []
        last: RoundhouseError | None = None
        try:
            while queue:
                retry = number > 0
                if retry and not await self._retries.acquire():
                    break
                well = False
                try:
                    candidate = queue.popleft()
                    if not self._admitted(candidate, job.facts):
                        well, last = True, last or _resting(candidate)
                        failed.append(f"{candidate.model.id}: breaker_open")
                        continue
                    number += 1
                    try:
                        attempt = await self._try(job, candidate, number, escalate=bool(queue))
                    except RoundhouseError as error:
                        last = error
                        failed.append(f"{candidate.model.id}: {error.code}")
                        if self._is_worth_repeating(error, candidate, leased_again):
                            queue.appendleft(candidate)
                        elif not (error.retryable or (queue and isinstance(error, _ANOTHER_MODEL))):
                            raise
                        continue
                    well = True
                    attempt.after = tuple(failed)
                    return attempt
                finally:
                    if retry:
                        self._retries.settle(well)
            raise last or nothing_left(plan, job.facts)
        finally:
            # An error held by a frame of its own traceback is a cycle: all it touched would stay until the garbage
            # collector comes, and refusing a burst would stop the loop for that.
            last = None

    def _is_worth_repeating(self, error: RoundhouseError, candidate: Candidate, leased_again: set[str]) -> bool:
        """Whether the same candidate may answer now: with another key, or on the worker's next process.

        A worker that dies is leased for a moment more; its socket then refuses the connection, and once is
        enough: the next lease waits for the restart.
        """
        model = candidate.model
        if isinstance(error, _ANOTHER_KEY):
            return self.leases.has_key(candidate, self.clock.monotonic())
        if model.local and isinstance(error, UpstreamUnreachable) and model.id not in leased_again:
            leased_again.add(model.id)
            return True
        return False

    async def _try(self, job: Job[T], candidate: Candidate, number: int, *, escalate: bool) -> Attempt[T]:
        """One attempt up to its first item, or to its end if it may escalate. Raises why there is no answer."""
        attempt = Attempt(self, job, candidate, number)
        escalate = escalate and job.judge is not None and job.facts.intent.escalate
        try:
            await attempt.start(whole=escalate)
        except BaseException as error:
            await attempt.close(error)
            raise
        if escalate and attempt.verdict() is False:
            await attempt.close()
            raise UpstreamProtocolError(f"'{candidate.model.id}' answered in a form not asked for.")
        return attempt

    def _admitted(self, candidate: Candidate, facts: Facts) -> bool:
        model = candidate.model
        return self._breakers.admit(model.id, model.endpoint_name, facts, self.clock.monotonic())

    def backend(self, upstream: Upstream, protocol: type, model: Model) -> Any:
        """The backend that speaks the upstream's language. Raises CapabilityMismatch if it cannot do this."""
        asked = upstream.protocol, protocol
        if asked not in self._speaks:
            # Asked once: isinstance of a protocol looks every method up.
            self._speaks[asked] = isinstance(self._backends.get(upstream.protocol), protocol)
        backend = self._backends.get(upstream.protocol)
        if not self._speaks[asked]:
            raise CapabilityMismatch(
                f"'{model.id}' is reached over '{upstream.protocol}', which cannot {protocol.__name__.lower()}.",
                param="model",
            )
        return backend

    def record(self, outcome: Outcome) -> None:
        """Tell everybody who learns from outcomes. Called once per attempt."""
        for sink in self._sinks:
            sink.record(outcome)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that outlives the request it belongs to."""
        task = asyncio.get_running_loop().create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def settle(self) -> None:
        """Wait until every attempt that ended has given everything back, and everybody knows of it."""
        while self._closing:
            await asyncio.wait(tuple(self._closing))
        self._behind.flush()


def _reason(attempt: Attempt[Any], plan: Plan) -> str:
    """Why this model: the plan's reason, and what failed before where it is not the plan's first."""
    reason = attempt.candidate.reason or plan.reason
    if not attempt.after:
        return reason
    return f"{attempt.model.id} after {', '.join(attempt.after)}; the first choice was {reason}"


def _resting(candidate: Candidate) -> ModelUnavailable:
    return ModelUnavailable(
        f"'{candidate.model.id}' failed too often just now and is being tested. Try again shortly.", retry_after=1
    )


def nothing_left(plan: Plan, facts: Facts) -> RoundhouseError:
    """The error for a plan without candidates: the reasons, most telling first."""
    passes = any(e.code in _PASSING for e in plan.excluded)
    retry_after = 1.0 if passes else None
    if plan.strategy is Strategy.EXPLICIT and plan.excluded:
        if plan.excluded[0].code == EngineMissing.code:
            return EngineMissing.told(plan.excluded[0].reason)
        return ModelUnavailable(plan.excluded[0].reason, param="model", retry_after=retry_after)
    reasons = "; ".join(f"{e.model}: {e.reason}" for e in list(plan.excluded)[:5])
    more = len(plan.excluded) - 5
    tail = f"; and {more} more" if more > 0 else ""
    return NoCandidate(
        f"No model can answer this {facts.capability.value} request. {reasons or 'The catalogue has none for it'}"
        f"{tail}. POST /v1/route explains it in full.",
        param="model",
        retry_after=retry_after,
    )
