"""Two dispatchers without a network, before and after a provider's batch.

:class:`Collector` makes a job into the request that its provider would be sent; :class:`Replayer` answers the job
from the result of the batch. Both make ordinary attempts, so a batch is bounded, translated, checked and paid for
as any call, but at the batch price, with its money reserved for the batch as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from backends.base import Backend, Upstream
from backends.deferred.api import Batches, Recorded
from backends.deferred.clients import Captured, CapturingClient, ReplayingClient
from backends.http import HttpClient
from backends.registry import backends, batch_api
from catalog.errors import ModelUnavailable, RoundhouseError
from catalog.model import Endpoint, Model
from catalog.types import Json
from routing.accounts.spend import Reservation, Spend
from routing.calling.answer import Answer
from routing.calling.attempt import Attempt
from routing.calling.context import AttemptContext
from routing.calling.job import Job
from routing.calling.lease import Lease, Leases, of_snapshot
from routing.calling.traces import Traces
from routing.clock import Clock
from routing.facts import Facts
from routing.outcomes import Outcome, OutcomeSink, Usage
from routing.plan import Candidate, Plan, Strategy
from routing.upstreams.provider_keys import digest_of

T = TypeVar("T")


class Taken(RoundhouseError):
    """Carries a job's request for a batch, and ends the job.

    ``amount`` is the dollars that it may cost, ``None`` if that is unknown, and ``key`` the digest of the
    provider's key.
    """

    def __init__(self, captured: Captured, model: Model, amount: float | None) -> None:
        super().__init__(captured.message)
        self.model = model
        self.path = captured.path
        self.body: Json = {name: value for name, value in captured.body.items() if name not in _STREAMING}
        self.sent_headers = captured.sent_headers
        secret = captured.upstream.api_key
        self.key = None if secret is None else digest_of(secret)
        self.amount = amount


_STREAMING = frozenset({"stream", "stream_options"})


@dataclass(frozen=True, slots=True)
class DeferredCalls:
    """The parts that collecting and replaying need. ``plan`` chooses as the dispatcher; ``sinks`` get outcomes."""

    plan: Callable[[Facts], Plan]
    endpoint: Callable[[str], Endpoint]
    leases: Leases
    spend: Spend
    traces: Traces
    clock: Clock
    spawn: Callable[[Coroutine[Any, Any, None]], Any]
    sinks: Sequence[OutcomeSink]
    http: HttpClient

    def batches(self, endpoint: str) -> Batches:
        """The batch API of an endpoint."""
        return batch_api(self.endpoint(endpoint).protocol, self.http)

    def context(self, leases: Any, spend: Spend, found: Mapping[str, Backend], *, records: bool) -> AttemptContext:
        def record(outcome: Outcome) -> None:
            if records:
                for sink in self.sinks:
                    sink.record(replace(outcome, first_chunk=None))  # nothing was waited for

        def backend(upstream: Upstream, protocol: type, model: Model) -> Any:
            del protocol, model
            return found[upstream.protocol]

        return AttemptContext(
            leases=leases,
            spend=spend,
            clock=self.clock,
            backend=backend,
            record=record,
            spawn=self.spawn,
        )


class Collector:
    """Raises :class:`Taken` for each job whose first candidate's endpoint sends batches to its provider.

    It raises ModelUnavailable for another job, and what the job's own call would raise before it is sent.
    """

    def __init__(self, calls: DeferredCalls) -> None:
        self._calls = calls
        self._leases = _CollectingLeases(calls.leases, calls.spend)
        self._context = calls.context(
            self._leases, calls.spend, backends(CapturingClient(calls.http.settings)), records=False
        )

    def explain(self, facts: Facts) -> Plan:
        return self._calls.plan(facts)

    def open(self, job: Job[T]) -> AbstractAsyncContextManager[Answer[T]]:
        return _Collecting(self, job)

    async def take(self, job: Job[Any]) -> NoReturn:
        """Make a job into a request. Raises as the class says."""
        plan = self._calls.plan(job.facts)
        first = plan.candidates[0] if plan.candidates else None
        if (
            first is None
            or first.model.local
            or plan.strategy is not Strategy.EXPLICIT
            or not self._calls.endpoint(first.model.endpoint_name).batches
        ):
            raise ModelUnavailable("The request goes into no batch of a provider.")
        attempt = Attempt(self._context, job, _at_batch_price(first), 1)
        error: BaseException | None = None
        try:
            await attempt.start()
        except Captured as captured:
            error = captured
            raise Taken(captured, first.model, self._leases.amount) from None
        except BaseException as other:
            error = other
            raise
        finally:
            await attempt.close(error)
        raise ModelUnavailable("The request was answered without a call.")


class _Collecting(AbstractAsyncContextManager[Answer[T]]):
    """Ends in an error of :meth:`Collector.take` when it is entered."""

    def __init__(self, collector: Collector, job: Job[T]) -> None:
        self._collector = collector
        self._job = job

    async def __aenter__(self) -> Answer[T]:
        await self._collector.take(self._job)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None


class Replayer:
    """Answers each job from the ``recorded`` result of a batch, with the row that was asked."""

    def __init__(self, calls: DeferredCalls, model: Model, key: str | None) -> None:
        """Raises ModelTemporarilyUnavailable when the provider's key is there no more."""
        self._calls = calls
        upstream = calls.leases.address_of_key(model, key)
        candidate = Candidate(model, 1.0, 0.0, None, None, model.endpoint_name, "answered in a provider's batch")
        self._candidate = _at_batch_price(candidate)
        self._client = ReplayingClient(calls.http.settings)
        self._leases = _ReplayingLeases(calls.leases, calls.spend, upstream)
        self._context = calls.context(self._leases, calls.spend.uncapped(), backends(self._client), records=True)
        self.upstream = upstream

    def next(self, recorded: Recorded, name: str) -> None:
        """Take the answer of the next job. A job of the same ``name`` is booked once, also after a crash."""
        self._client.recorded = recorded
        self._leases.name = name

    def explain(self, facts: Facts) -> Plan:
        return self._calls.plan(facts)

    def open(self, job: Job[T]) -> AbstractAsyncContextManager[Answer[T]]:
        return self._opened(job)

    @asynccontextmanager
    async def _opened(self, job: Job[T]) -> Any:
        plan = Plan((self._candidate,), (), Strategy.EXPLICIT, self._candidate.reason)
        self._calls.traces.start(job.trace, job.facts, plan, job.request.to_wire)
        attempt = Attempt(self._context, job, self._candidate, 1)
        error: BaseException | None = None
        try:
            await attempt.start()
            yield Answer(attempt, self._candidate.reason, _no_other)
        except BaseException as raised:
            error = raised
            raise
        finally:
            try:
                await attempt.close(error)
            finally:
                failure = error if isinstance(error, RoundhouseError) else None
                self._calls.traces.finish(job.trace, failure)
                error = failure = None


async def _no_other(_: Answer[Any], error: RoundhouseError) -> None:
    raise error


def _at_batch_price(candidate: Candidate) -> Candidate:
    model = candidate.model
    return candidate._replace(model=model.model_copy(update={"price": model.price.in_batches()}))


class _CollectingLeases:
    """Checks a call's money without keeping it, and gives all calls of a row the same key."""

    def __init__(self, leases: Leases, spend: Spend) -> None:
        self._leases = leases
        self._spend = spend
        self._addresses: dict[str, Upstream] = {}
        self.amount: float | None = None
        """The dollars of the last call."""

    def target(self, model: Model) -> Upstream | None:
        return self._leases.target(model)

    async def acquire(
        self,
        held: AsyncExitStack,
        facts: Facts,
        candidate: Candidate,
        now: float,
        *,
        longest: int | None = None,
        spent: float = 0.0,
        provider_key: str | None = None,
    ) -> Lease:
        del provider_key
        model = candidate.model
        self.amount = self._spend.estimate(model.price, facts, longest)
        checked = _Checked(self._spend, facts.key, model.id, model.endpoint_name, self.amount, spent)
        reservation = await held.enter_async_context(checked)
        if model.id not in self._addresses:
            self._addresses[model.id], _ = self._leases.address(model, now)
        return Lease(of_snapshot(self._addresses[model.id], facts), None, reservation, waits=True)


class _Checked(Reservation):
    """A reservation of a call that is not made here: it is checked, and nothing is held."""

    async def __aenter__(self) -> Self:
        self._spend.check(self, self._spend.now())
        return self

    def settle(
        self, actual: float | None, usage: Usage, *, estimate: float | None = None, partly: bool = False
    ) -> None:
        """Charge nothing."""


class _ReplayingLeases:
    """Books calls that were made: whatever the caps are by now."""

    def __init__(self, leases: Leases, spend: Spend, upstream: Upstream) -> None:
        self._leases = leases
        self._spend = spend
        self._upstream = upstream
        self.name: str | None = None

    def target(self, model: Model) -> Upstream | None:
        return self._leases.target(model)

    async def acquire(
        self,
        held: AsyncExitStack,
        facts: Facts,
        candidate: Candidate,
        now: float,
        *,
        longest: int | None = None,
        spent: float = 0.0,
        provider_key: str | None = None,
    ) -> Lease:
        del now, spent, provider_key
        model = candidate.model
        made = self._spend.reserve(key=facts.key, model=model.id, endpoint=model.endpoint_name, amount=0.0)
        reservation = await held.enter_async_context(made)
        reservation.amount = self._spend.estimate(model.price, facts, longest)
        reservation.once = self.name
        return Lease(of_snapshot(self._upstream, facts), None, reservation, waits=False)
