"""Carries out jobs: walks a plan, calls its candidates, falls back, and records every attempt."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from backends.base import Upstream
from backends.native import original_for, refusal_of
from backends.wire.common import WireModel
from catalog.errors import (
    BudgetExceeded,
    CapabilityMismatch,
    ContextLengthExceeded,
    EngineMissing,
    ModelTemporarilyUnavailable,
    ModelUnavailable,
    NoCandidate,
    RoundhouseError,
    UnsupportedParameter,
    UpstreamForbidden,
    UpstreamProtocolError,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRejectedKey,
    UpstreamUnreachable,
)
from catalog.index import permits
from catalog.model import Model
from routing.accounts.spend import Spend
from routing.calling.answer import Answer
from routing.calling.attempt import Attempt
from routing.calling.booking import booked
from routing.calling.context import AttemptContext
from routing.calling.job import Job
from routing.calling.lease import Leases
from routing.calling.lightening import InFrames, lightened
from routing.calling.retry_budget import RetryBudget
from routing.calling.traces import Traces
from routing.calling.watching.endings import EndWarnings
from routing.clock import Clock
from routing.facts import Facts
from routing.outcomes import BatchedSink, Outcome, OutcomeSink, Usage
from routing.plan import (
    KEYS_FORBIDDEN,
    KEYS_REJECTED,
    NOT_SET_UP,
    OVER_BUDGET,
    Candidate,
    Exclusion,
    Plan,
    Strategy,
)
from routing.upstreams.breaker import Breakers

T = TypeVar("T")
Planner = Callable[[Facts], Plan]

_ANOTHER_KEY = (UpstreamRateLimited, UpstreamRejectedKey)
_LIMITS = ("keys_resting", "keys_used_up")
_REFUSED = (KEYS_FORBIDDEN, KEYS_REJECTED)
"""Codes of exclusions that end when their cause is mended, which one call at a time tries."""
_PASSING = ("breaker_open", *_LIMITS, *_REFUSED)
"""Codes of exclusions that pass, so that trying again may help."""
_MAX_REASONS = 5
_ANOTHER_MODEL = (ContextLengthExceeded, CapabilityMismatch, UnsupportedParameter)


class Opening(Generic[T]):
    """An answer while the block lasts; see :meth:`Dispatcher.open`."""

    __slots__ = ("_answer", "_dispatcher", "_job")

    def __init__(self, dispatcher: Dispatcher, job: Job[T]) -> None:
        self._dispatcher = dispatcher
        self._job = job
        self._answer: Answer[T] | None = None

    async def __aenter__(self) -> Answer[T]:
        job: Job[T] | None = self._job
        while job is not None:
            try:
                self._answer = await self._dispatcher.begin(job)
                break
            except RoundhouseError as error:
                if (job := await self._dispatcher.lightened(job, error)) is None:
                    raise
        assert self._answer is not None
        return self._answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._answer is not None
        await self._dispatcher.end(self._answer.attempt, error)


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
        batched_sinks: Sequence[OutcomeSink] = (),
        after_batch: Callable[[], None] = lambda: None,
        pin: Callable[[str, str], str] = lambda _, model: model,
        model: Callable[[str], Model | None] = lambda _: None,
        frames: InFrames | None = None,
    ) -> None:
        """``sinks`` get each outcome at once, ``batched_sinks`` in batches, each followed by ``after_batch()``.

        ``pin`` keeps an alias of embeddings to a model and returns the model that it is pinned to. ``model`` finds
        the row of an exclusion. ``frames`` makes pictures of videos.
        """
        self._clock = clock
        self._leases = leases
        self._plan = planner
        self._backends = backends
        self._breakers = breakers
        self._retries = retries
        self._traces = traces
        self._pin = pin
        self._model = model
        self._frames = frames
        self._batched = BatchedSink(batched_sinks, on_flush=after_batch)
        self._sinks = (*sinks, self._batched) if batched_sinks else tuple(sinks)
        self._has_protocol: dict[tuple[str, type], bool] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._ends = EndWarnings()
        self._context = AttemptContext(
            leases=leases, spend=spend, clock=clock, backend=self._backend, record=self._record, spawn=self.spawn
        )

    def open(self, job: Job[T]) -> Opening[T]:
        """A context manager; entering it waits for the first item of the answer.

        Leaving the block closes the upstream, gives everything back and records the attempt's one outcome.
        Cancelling while entering does the same.

        Raises the error of :func:`nothing_left` when the plan is empty, else the last attempt's.
        """
        return Opening(self, job)

    async def lightened(self, job: Job[T], error: RoundhouseError) -> Job[T] | None:
        """See :func:`routing.calling.lightening.lightened`."""
        return await lightened(job, error, self._frames)

    async def begin(self, job: Job[T]) -> Answer[T]:
        """The answer of the first candidate that gives one. The caller passes its attempt to :meth:`end`."""
        plan = self._plan(job.facts)
        if not (job.further and self._traces.go_on(job.trace)):
            self._traces.start(job.trace, job.facts, plan, job.request.to_wire)
        self._retries.deposit()
        try:
            attempt = await self._first_answer(job, plan, plan.candidates, spent=job.spent)
            if plan.pin is not None and self._pin(plan.pin, attempt.model.id) != attempt.model.id:
                # Another first call pinned the alias meanwhile; an answer in another vector space is of no use.
                await attempt.close()
                plan, spent = self._plan(job.facts), attempt.total_spent
                attempt = await self._first_answer(job, plan, plan.candidates, spent=spent)
        except BaseException as error:
            self._finish(job, error)
            raise
        return Answer(attempt, _reason(attempt, plan), partial(self._resume, plan))

    async def _resume(self, plan: Plan, answer: Answer[T], error: RoundhouseError) -> None:
        """See :meth:`Answer.resume`."""
        broken = answer.attempt
        await broken.close(error)
        tried = next(at for at, candidate in enumerate(plan.candidates) if candidate is broken.candidate)
        rest = plan.candidates[tried + 1 :]
        if not (error.retryable and rest):
            raise error
        failed = [*broken.failures, f"{broken.model.id}: {error.code}"]
        attempt = await self._first_answer(
            broken.job, plan, rest, broken.number, failed, error, spent=broken.total_spent
        )
        answer.adopt(attempt, _reason(attempt, plan))

    async def end(self, attempt: Attempt[T], error: BaseException | None) -> None:
        """Close the attempt that answered; ``error`` is the exception that ended its use, if any."""
        try:
            await attempt.close(error)
        finally:
            if isinstance(error, RoundhouseError):
                error.quotes = True
            self._finish(attempt.job, error)

    def _finish(self, job: Job[T], error: BaseException | None) -> None:
        """End the job's trace, which the error then names."""
        if isinstance(error, RoundhouseError):
            error.trace = job.trace
            self._traces.finish(job.trace, error)
        else:
            self._traces.finish(job.trace)

    def explain(self, facts: Facts) -> Plan:
        """The plan that :meth:`open` would carry out, by everything recorded so far."""
        self._batched.flush()
        return self._plan(facts)

    async def _first_answer(
        self,
        job: Job[T],
        plan: Plan,
        candidates: Sequence[Candidate],
        number: int = 0,
        failures: Sequence[str] = (),
        last: RoundhouseError | None = None,
        *,
        spent: float = 0.0,
    ) -> Attempt[T]:
        """The attempt at the first of the candidates that answers, after ``number`` attempts with these failures.

        ``spent`` are the dollars that those attempts cost. Raises the last attempt's error, or that of
        :func:`nothing_left`.
        """
        queue = deque(self._able(job, plan, candidates))
        leased_again: set[str] = set()
        failed = list(failures)
        limits: list[float | None] = []
        passing = last if last is not None and last.retryable else None
        refusals: dict[str, str] = {}
        try:
            while queue:
                retry = number > 0
                if retry and not await self._retries.acquire():
                    break
                succeeded = False
                try:
                    candidate = queue.popleft()
                    if not self._admitted(candidate, job.facts, named=plan.strategy is Strategy.EXPLICIT):
                        succeeded, last = True, last or _resting(candidate)
                        passing = passing or last
                        failed.append(f"{candidate.model.id}: breaker_open")
                        continue
                    number += 1
                    attempt = Attempt(self._context, job, candidate, number, spent)
                    try:
                        await self._try(attempt, escalate=bool(queue))
                    except RoundhouseError as error:
                        last, spent = error, attempt.total_spent
                        failed.append(f"{candidate.model.id}: {error.code}")
                        if isinstance(error, UpstreamRateLimited):
                            limits.append(error.retry_after)
                        repeats = self._is_worth_repeating(error, candidate, leased_again)
                        if repeats and not job.facts.tokens_only:
                            queue.appendleft(candidate)
                        elif error.retryable:
                            passing = error
                        elif not _is_of_this_model(error) or not (queue or passing):
                            _tell_of_others(error, refusals)
                            raise
                        elif isinstance(error, UnsupportedParameter) and error.param is not None:
                            refusals.setdefault(error.message, error.param)
                        continue
                    succeeded = True
                    attempt.failures = tuple(failed)
                    return attempt
                finally:
                    if retry:
                        self._retries.settle(succeeded)
            if isinstance(last, UpstreamRateLimited) and len(limits) == len(failed):
                last.retry_after = min((rest for rest in limits if rest is not None), default=None)
            # A fault that passes by itself tells more than another candidate's lack.
            raise passing or last or nothing_left(plan, job.facts)
        finally:
            # Drop the error: its traceback holds this frame, a cycle. Collecting the cycles of a burst of
            # refusals would stop the event loop.
            last = passing = None

    def _able(self, job: Job[T], plan: Plan, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """The candidates that can be sent this request.

        One that a translation cannot hold (another API's own tools) goes to providers of its own language alone.
        If none is among the candidates, raises the error of :func:`nothing_left` for those that rest, else
        UnsupportedParameter.
        """
        refusal = refusal_of(job.request)
        if refusal is None or not candidates:
            return candidates
        able = [candidate for candidate in candidates if self._speaks(job.request, candidate.model)]
        if able:
            return able
        rest = [
            exclusion
            for exclusion in plan.excluded
            if exclusion.code in (*_PASSING, OVER_BUDGET)
            and (model := self._model(exclusion.model)) is not None
            and self._speaks(job.request, model)
        ]
        refusal.quotes = True
        error = nothing_left(replace(plan, candidates=(), excluded=rest), job.facts) if rest else refusal
        raise error

    def _speaks(self, request: WireModel, model: Model) -> bool:
        """Whether the model's provider is sent the caller's own request."""
        upstream = self._leases.target(model)
        backend = None if upstream is None else self._backends.get(upstream.protocol)
        return upstream is not None and original_for(backend, request, upstream) is not None

    def _is_worth_repeating(self, error: RoundhouseError, candidate: Candidate, leased_again: set[str]) -> bool:
        """Whether the same candidate may answer now: with another key, or on a restarted worker.

        A dead worker can be leased until its death is noticed; its socket then refuses the connection. The next
        lease waits for the restart, so one repetition is enough.
        """
        model = candidate.model
        if isinstance(error, _ANOTHER_KEY) or (isinstance(error, UpstreamForbidden) and error.scope == "model"):
            return self._leases.has_key(candidate, self._clock.monotonic())
        if model.local and isinstance(error, UpstreamUnreachable) and model.id not in leased_again:
            leased_again.add(model.id)
            return True
        return False

    async def _try(self, attempt: Attempt[T], *, escalate: bool) -> None:
        """Start an attempt, or complete it if it may escalate. Raises the attempt's error."""
        job, candidate = attempt.job, attempt.candidate
        escalate = escalate and job.judge is not None and job.facts.intent.escalate
        try:
            await attempt.start(complete=escalate)
        except BaseException as error:
            if isinstance(error, UpstreamRejectedKey) and (source := self._leases.key_source(candidate.model)):
                error.message += f" Check the key in {source}."
            await attempt.close(error)
            if isinstance(error, UpstreamRateLimited):
                # The outcome is recorded: the rest of the keys is what the caller has to wait for.
                rest = self._leases.rest_of_keys(candidate, self._clock.monotonic())
                error.retry_after = error.retry_after if rest is None else math.ceil(rest)
            raise
        if escalate and attempt.verdict() is False:
            await attempt.close()
            raise UpstreamProtocolError(f"'{candidate.model.id}' did not follow the requested schema or tools.")
        if candidate.model.ends is not None:
            self._ends.used(candidate.model, self._clock.wall())

    def _admitted(self, candidate: Candidate, facts: Facts, *, named: bool) -> bool:
        model, now = candidate.model, self._clock.monotonic()
        return self._breakers.admit(model.id, model.endpoint_name, facts, now, despite_lacks=named)

    def _backend(self, upstream: Upstream, protocol: type, model: Model) -> Any:
        """The backend of the upstream's protocol. Raises CapabilityMismatch if it lacks this capability."""
        asked = upstream.protocol, protocol
        if asked not in self._has_protocol:
            # Cached: isinstance of a runtime protocol looks up every method.
            self._has_protocol[asked] = isinstance(self._backends.get(upstream.protocol), protocol)
        backend = self._backends.get(upstream.protocol)
        if not self._has_protocol[asked]:
            raise CapabilityMismatch(
                f"'{model.id}' is reached over '{upstream.protocol}', which cannot {protocol.__name__.lower()}.",
                param="model",
            )
        return backend

    def _record(self, outcome: Outcome) -> None:
        """Publish an outcome to every sink. Called once per attempt."""
        for sink in self._sinks:
            sink.record(outcome)

    def book(self, job: Job[Any], usage: Usage, came: int = 0) -> None:
        """Charge and record what a job cost that no limit could refuse, as it was done already.

        ``came`` are the estimated tokens of an answer without its usage.
        """
        model = self._model(job.facts.requested)
        if model is not None:
            self._record(booked(self._context, job, model, usage, came))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that outlives its request; :meth:`settle` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def settle(self) -> None:
        """Wait until every ended attempt has given everything back, and every outcome has reached its sinks."""
        while self._closing:
            await asyncio.wait(tuple(self._closing))
        self._batched.flush()


def _reason(attempt: Attempt[Any], plan: Plan) -> str:
    """The reason for this model: the plan's, and the failures before it if it is not the plan's first."""
    reason = attempt.candidate.reason or plan.reason
    if attempt.job.facts.stands_for is not None:
        reason = f"it stands in for '{attempt.job.facts.stands_for}' as '{attempt.job.facts.requested}': {reason}"
    if not attempt.failures:
        return reason
    return f"{attempt.model.id} after {', '.join(attempt.failures)}; the first choice was {reason}"


def _is_of_this_model(error: RoundhouseError) -> bool:
    """Whether a request was refused for what this model lacks, so that another may answer it."""
    return isinstance(error, _ANOTHER_MODEL) or getattr(error, "lacks", None) is not None


def _tell_of_others(error: RoundhouseError, refusals: Mapping[str, str]) -> None:
    """Add to the last refusal those of the same parameter by other models, which lack other things of it.

    ``refusals`` are parameters by messages.
    """
    others = [message for message, param in refusals.items() if param == error.param and message != error.message]
    if isinstance(error, UnsupportedParameter) and others:
        error.message, error.quotes = " ".join([*others[-_MAX_REASONS:], error.message]), True


def _resting(candidate: Candidate) -> ModelTemporarilyUnavailable:
    return ModelTemporarilyUnavailable(
        f"'{candidate.model.id}' failed too often just now and is being tested. Try again shortly.", retry_after=1
    )


def own_exclusions(plan: Plan, facts: Facts) -> list[Exclusion]:
    """The plan's exclusions without those of models that the caller's key may not use."""
    return [exclusion for exclusion in plan.excluded if permits(facts.allowed, exclusion.model)]


def nothing_left(plan: Plan, facts: Facts) -> RoundhouseError:
    """The error for a plan without candidates, with the reasons of its exclusions.

    ModelTemporarilyUnavailable if an exclusion passes by itself, UpstreamRateLimited or UpstreamQuotaExceeded if
    every one of those is a provider's limit, UpstreamForbidden or UpstreamRejectedKey if every one is a refusal of
    the keys (as the refused call was answered: waiting does not mend it), BudgetExceeded if one is by a spending
    cap.
    Otherwise trying again does not help: CapabilityMismatch if a server said that it cannot, ContextLengthExceeded
    if a model would answer a shorter prompt, ModelUnavailable or EngineMissing for a model asked for by name, else
    NoCandidate.
    """
    named = plan.strategy is Strategy.EXPLICIT
    excluded = own_exclusions(plan, facts)
    by_code = {exclusion.code: exclusion for exclusion in reversed(excluded)}
    message = _told(excluded, facts)
    passing = next((by_code[code] for code in _PASSING if code in by_code), None)
    if passing is not None:
        rest = min(exclusion.rest or 1.0 for exclusion in excluded if exclusion.code in _PASSING)
        text = f"'{passing.model}' cannot answer at present: {passing.reason}." if named else message
        if by_code.keys().isdisjoint(("breaker_open", *_LIMITS)):
            refused = UpstreamRejectedKey if KEYS_REJECTED in by_code else UpstreamForbidden
            return refused(text, param="model")
        text += f" Try again in {math.ceil(rest)} s, or choose another model."
        if passing.code in _LIMITS and by_code.keys().isdisjoint(("breaker_open", *_REFUSED)):
            limited = UpstreamRateLimited if "keys_resting" in by_code else UpstreamQuotaExceeded
            return limited(text, param="model", retry_after=math.ceil(rest))
        return ModelTemporarilyUnavailable(text, param="model", retry_after=math.ceil(rest))
    if OVER_BUDGET in by_code:
        return BudgetExceeded(message)
    if "breaker_cannot" in by_code:
        return CapabilityMismatch(message, param="model")
    if "context" in by_code:
        return ContextLengthExceeded.told(message)
    first = excluded[0] if named and excluded else None
    if first is None or first.code not in NOT_SET_UP:
        if "language" in by_code and by_code.keys() <= {"language", "capability", *NOT_SET_UP}:
            return NoCandidate(message, param="language" if len(facts.languages) == 1 else "languages")
        return NoCandidate(message, param="model")
    if first.code == EngineMissing.code:
        return EngineMissing.told(first.reason)
    reason = first.reason.rstrip(".")
    told = first.reason if reason[:1].isupper() else f"'{first.model}' cannot answer: {reason}."
    return ModelUnavailable(told, param="model")


def _told(excluded: Sequence[Exclusion], facts: Facts) -> str:
    """The reasons, those that can be mended before those of models of another kind."""
    models: dict[tuple[bool, str], list[str]] = {}
    for exclusion in excluded:
        models.setdefault((exclusion.code == "capability", exclusion.reason), []).append(exclusion.model)
    told = []
    for _, reason in sorted(models, key=lambda key: key[0])[:_MAX_REASONS]:
        names = models[_, reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        told.append(f"{', '.join(names[:3])}{more}: {reason}")
    left = len(models) - len(told)
    tail = f"; and {left} further reasons" if left else ""
    reasons = "; ".join(told) or "There is none for it that your key may use"
    return (
        f"No model can answer this {facts.capability.value} request. {reasons}{tail}. "
        "POST /v1/route explains it in full."
    )
