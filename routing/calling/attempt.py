"""One attempt: what it takes is given back, and it leaves exactly one outcome, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from backends.plain import asks_plainly
from catalog.errors import (
    CapabilityMismatch,
    Draining,
    EngineMissing,
    InvalidRequest,
    RateLimited,
    RoundhouseError,
    StreamBroken,
    UnsupportedParameter,
)
from catalog.model import Model
from routing.calling.lease import Lease
from routing.calling.observers import observer_for
from routing.outcomes import Outcome, Result, Usage
from routing.plan import Candidate

if TYPE_CHECKING:
    from routing.calling.dispatcher import Dispatcher, Job

T = TypeVar("T")


class Attempt(Generic[T]):
    """A call of one candidate: ``start`` it, iterate it, and ``close`` it in every case."""

    def __init__(self, house: Dispatcher, job: Job[T], candidate: Candidate, number: int) -> None:
        self.job = job
        self.candidate = candidate
        self.number = number
        self.dropped: tuple[str, ...] = ()
        self.after: tuple[str, ...] = ()
        """What failed before it, each as ``model: code``."""
        self._house = house
        self._lease: Lease | None = None
        self._source: AsyncIterator[T] | None = None
        self._held: list[T] = []
        self._observer = observer_for(job.facts, candidate.model.id)
        self._judge = job.judge() if job.judge is not None else None
        self._began = house.clock.monotonic()
        self._queued = 0.0
        self._first: float | None = None
        self._whole = False
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def model(self) -> Model:
        return self.candidate.model

    def verdict(self) -> bool | None:
        """Whether the answer so far is what was asked for; ``None`` when nobody can tell."""
        return None if self._judge is None else self._judge.verdict()

    async def start(self, *, whole: bool = False) -> None:
        """Take what the call needs, call, and wait for the first item that carries something.

        With ``whole`` wait for all of them, so that the answer can be checked before anybody sees it.
        """
        try:
            lease = self._house.leases.take(self.job.facts, self.candidate, self._began)
            self._lease = await lease.__aenter__()
            self._queued = self._house.clock.monotonic() - self._began
            backend = self._house.backend(lease.upstream, self.job.protocol, self.model)
            self.dropped = backend.dropped(self.job.request, lease.upstream)
            if self.dropped and self.job.facts.intent.strict:
                raise UnsupportedParameter(
                    f"'{self.model.id}' cannot honour: {', '.join(self.dropped)}. Remove them, or do not ask "
                    "for strict.",
                    param=self.dropped[0],
                )
            self._whole = asks_plainly(self.job.request, lease.upstream)
            self._source = aiter(self.job.call(backend, lease.upstream, self.model))
            while (whole or not self._observer.begun) and await self._pull():
                pass
        except BaseException as error:
            self._error = error
            raise

    async def _pull(self) -> bool:
        assert self._source is not None
        try:
            item = await anext(self._source)
        except StopAsyncIteration:
            if not self._observer.begun:
                raise StreamBroken(f"'{self.model.id}' ended its answer before it began.") from None
            self._ended = True
            return False
        self._observer.see(item)
        if self._judge is not None:
            self._judge.see(item)
        if self._first is None and self._observer.begun and not self._whole:
            self._first = self._house.clock.monotonic() - self._began
        self._held.append(item)
        return True

    async def items(self) -> AsyncIterator[T]:
        """What came so far, then the rest as it comes."""
        see, judge = self._observer.see, self._judge
        try:
            held, self._held = self._held, []
            for item in held:
                yield item
            held.clear()
            if self._ended:
                return
            assert self._source is not None
            async for item in self._source:
                see(item)
                if judge is not None:
                    judge.see(item)
                yield item
            self._ended = True
        except Exception as error:
            self._error = error
            raise

    async def close(self, error: BaseException | None = None) -> None:
        """Close the upstream, give everything back, record; once. A cancelled caller does not stop it."""
        if self._closing is None:
            if self._closed:
                return
            self._closed = True
            self._error = self._error or error
            if self._ended and self._lease is not None and not self._lease.waits:
                # Nothing in it waits, so nothing can cancel it half-way: it needs no task of its own.
                await self._release()
                return
            self._closing = self._house.spawn(self._release())
        await asyncio.shield(self._closing)

    async def _release(self) -> None:
        outcome = self._conclude()
        self._error = None  # its traceback leads back here, and the garbage collector is for what cannot be helped
        if self._lease is not None:
            self._lease.reservation.settle(outcome.cost, outcome.usage)
        try:
            if self._source is not None:
                await _aclose(self._source)
        finally:
            try:
                if self._lease is not None:
                    await self._lease.__aexit__(None, None, None)
            finally:
                self._house.record(outcome)

    def _conclude(self) -> Outcome:
        error, seen = self._error, self._observer
        usage = seen.usage
        result = self._result()
        cost: float | None = 0.0
        if seen.begun:
            if not usage.known and result is Result.CANCELLED:
                usage = Usage(input=self.job.facts.prompt_tokens, known=False)
            cost = self._house.spend.cost(self.model.price, usage, self.job.facts.capability)
        failure = error if isinstance(error, RoundhouseError) else None
        return Outcome(
            trace=self.job.trace,
            attempt=self.number,
            model=self.model.id,
            endpoint=self.model.endpoint_name,
            facts=self.job.facts,
            result=result,
            at=self._house.clock.wall(),
            queued=self._queued,
            first_chunk=self._first,
            duration=self._house.clock.monotonic() - self._began,
            usage=usage,
            cost=cost,
            finish_reason=seen.finish_reason,
            error=failure.code if failure else ("internal_error" if result is Result.FAILED else None),
            status=getattr(failure, "upstream_status", None),
            retry_after=failure.retry_after if failure else None,
            valid=self.verdict() if result is Result.SUCCESS else None,
            provider_key=self._lease.provider_key if self._lease else None,
            whole=self._whole,
        )

    def _result(self) -> Result:
        error = self._error
        if error is None:
            if not self._ended and self._observer.finish_reason is None:
                return Result.CANCELLED
            return Result.REFUSAL if self._observer.finish_reason == "content_filter" else Result.SUCCESS
        if isinstance(error, CapabilityMismatch | EngineMissing):
            return Result.CANNOT
        if isinstance(error, InvalidRequest | RateLimited | Draining):
            return Result.REJECTED
        if isinstance(error, Exception):
            return Result.FAILED
        return Result.CANCELLED


async def _aclose(source: Any) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()
