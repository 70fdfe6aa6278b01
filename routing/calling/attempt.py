"""One call of one candidate. It gives back everything it took and records exactly one outcome, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, Generic, TypeVar

from backends.adapting.system import MOVED, has_late_system
from backends.base import Upstream
from backends.native import original_for
from backends.notices import Notes, collect
from backends.plain import asks_plainly
from backends.wire.chat import NO_PAID_TOOLS, ChatRequest
from backends.wire.completions import CompletionRequest
from backends.wire.responses import LEAST_OUTPUT
from backends.wire.sampling import Sampling
from catalog.errors import (
    AnswerInvalid,
    ContextLengthExceeded,
    Draining,
    EngineMissing,
    InvalidRequest,
    PathMissing,
    RateLimited,
    RoundhouseError,
    StreamBroken,
    UpstreamError,
    UpstreamProtocolError,
)
from catalog.model import Capability, Model
from routing.accounts.costs import most_decoded
from routing.calling.bounds import (
    Bound,
    as_run,
    as_sent,
    bound_of,
    most_asked,
    reserved_answer,
    usual_part,
)
from routing.calling.context import AttemptContext
from routing.calling.fitting import fit, refuse_lost
from routing.calling.job import Job
from routing.calling.lease import Lease
from routing.calling.operations import DISCARD
from routing.calling.watching.judgement import insists
from routing.calling.watching.observers import ChunkObserver, ImageObserver, ends_of
from routing.calling.watching.usage_details import in_tiers
from routing.outcomes import Outcome, Result, Usage
from routing.plan import Candidate
from routing.state.protocol import NANO
from routing.upstreams.provider_keys import digest_of

T = TypeVar("T")
_MOST_AFTER_END = 1000
"""Items that may follow the end of the last choice: its usage, and events of a provider's own."""
OWN_FAULTS = TypeError | ValueError | AttributeError | LookupError | AssertionError
"""Errors of this program's own code: backends raise typed errors for all that an upstream does wrong, so these
count as no failure of the upstream's."""


_CUT = frozenset({Result.CANCELLED, Result.FAILED})


class Attempt(Generic[T]):
    """A call of one candidate: ``start`` it, iterate it, and ``close`` it in every case."""

    def __init__(
        self, context: AttemptContext, job: Job[T], candidate: Candidate, number: int, spent: float = 0.0
    ) -> None:
        """``spent`` are the dollars of earlier attempts at the job, which its limits on cost count too."""
        self.job = job
        self.candidate = candidate
        self.number = number
        self.spent = spent
        self.dropped: tuple[str, ...] = ()
        self.bound: Bound | None = None
        """The longest answer by a limit on cost or tokens, if one is below the caller's own bound."""
        self.effort: str | None = None
        """The reasoning effort that was asked for, if the caller named none."""
        self.failures: tuple[str, ...] = ()
        """The failures before this attempt, each as ``model: code``."""
        self._context = context
        self._facts = job.facts
        self._held = AsyncExitStack()
        self._lease: Lease | None = None
        self._source: AsyncIterator[T] | None = None
        self._early: list[T] = []
        self._observer = job.operation.observer(job.facts, candidate.model.id)
        self._judge = job.judge() if job.judge is not None else None
        self._verdict: bool | None = None
        self._judged = False
        self._began = context.clock.monotonic()
        self._queued = 0.0
        self._first: float | None = None
        self._unstreamed = False
        self._notes: Notes | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def model(self) -> Model:
        return self.candidate.model

    @property
    def provider_key(self) -> str | None:
        """The digest of the provider's key that the call carries; None without one."""
        secret = None if self._lease is None else self._lease.upstream.api_key
        return None if secret is None or self.model.local else digest_of(secret)

    @property
    def total_spent(self) -> float:
        """Dollars of this attempt, once it is closed, and of those before it."""
        return self.spent + (0.0 if self._lease is None else self._lease.reservation.charged / NANO)

    @property
    def notices(self) -> Sequence[str]:
        """Sentences for the caller about how the model answers."""
        return () if self._notes is None else self._notes.notices

    def wall(self) -> float:
        """Wall-clock time in seconds."""
        return self._context.clock.wall()

    def verdict(self) -> bool | None:
        """Whether the ended answer is valid; ``None`` when that cannot be told. The judge is asked once.

        An answer that was cut at :attr:`bound` is not judged.
        """
        if self._judge is not None and not self._judged:
            self._judged = True
            cut = self.bound is not None and self._observer.finish_reason == "length"
            self._verdict = None if cut else self._judge.verdict()
        return self._verdict

    def _check_form(self) -> None:
        """Raises AnswerInvalid if the ended answer broke the form that its request insists on."""
        if self._observer.finish_reason != "length" and self.verdict() is False:
            raise AnswerInvalid(
                f"'{self.model.id}' did not give its answer the form that the request asks for. Try again, or "
                "choose another model."
            )

    async def start(self, *, complete: bool = False) -> None:
        """Acquire a lease, call, and wait for the first item that carries content.

        With ``complete``, wait for every item, so that the answer is checked before it is passed on.

        Raises what :meth:`Leases.acquire` raises, CapabilityMismatch when the backend lacks the capability,
        UnsupportedParameter for a dropped parameter under ``strict`` and for a limit on cost or tokens that cannot
        be kept, PriceUnknown, InvalidRequest and the backend's errors,
        UpstreamError for a chat's path that is missing at present, and StreamBroken for an answer without content.
        """
        try:
            facts, spend = self.job.facts, self._context.spend
            if facts.output_tokens is not None and facts.output_tokens < LEAST_OUTPUT:
                facts = as_sent(facts, self._context.leases.target(self.model))
            if facts.paid is not NO_PAID_TOOLS and self._gets_original():
                facts = as_run(facts)
            self._facts = facts
            self.bound = bound_of(self.model, facts, spend, self.job.bound, self.spent)
            lease = await self._context.leases.acquire(
                self._held,
                facts,
                self.candidate,
                self._began,
                longest=reserved_answer(self.model, facts, spend, self.bound),
                spent=self.spent,
                provider_key=self.job.provider_key,
            )
            self._lease = lease
            self._queued = self._context.clock.monotonic() - self._began
            backend = self._context.backend(lease.upstream, self.job.operation.protocol, self.model)
            fitted = fit(self.job, self.candidate, self.bound, self._context.spend, backend, lease.upstream, facts)
            request, self.dropped, self.effort = fitted
            self._refuse(self.dropped)
            draws = facts.capability is Capability.IMAGE
            late = draws or lease.upstream.ours or lease.upstream.wire == "responses"
            self._notes = collect() if late else None
            self._unstreamed = asks_plainly(request, lease.upstream)
            self._source = aiter(self.job.operation.call(backend, lease.upstream, request))
            while (complete or not self._observer.begun) and await self._pull():
                pass
            if lease.upstream.asked.known:
                self._note_form(lease.upstream)
            self._note_reported()
        except PathMissing as error:
            self._error = found = self._of_missing_path(error)
            found.quotes = True
            raise found from None
        except BaseException as error:
            self._error = error
            if isinstance(error, ContextLengthExceeded):
                limits = self.model.limits
                limit = limits.context_window or limits.max_input_tokens
                error.complete(limit=limit, estimate=self.job.facts.prompt_tokens)
                if self.model.local and self.job.facts.capability in (Capability.CHAT, Capability.COMPLETION):
                    error.add_advice()
            if isinstance(error, RoundhouseError):
                error.quotes = self._lease is not None
            raise

    def _gets_original(self) -> bool:
        """Whether the upstream speaks the language of the caller's own request, and gets that."""
        upstream = self._context.leases.target(self.model)
        if upstream is None:
            return False
        backend = self._context.backend(upstream, self.job.operation.protocol, self.model)
        return original_for(backend, self.job.request, upstream) is not None

    def _note_reported(self) -> None:
        """Note what the upstream says that it left out. Raises as :meth:`_refuse`, but for a missing usage."""
        if self._notes is not None and self._notes.dropped:
            self.dropped = tuple(dict.fromkeys([*self.dropped, *self._notes.dropped]))
            self._notes.dropped.clear()
            self._refuse(tuple(name for name in self.dropped if name != "usage"))

    def _note_form(self, upstream: Upstream) -> None:
        """Note how the answer came from a server that refuses the usual form, and name what it lacks.

        Raises UnsupportedParameter under ``strict``, but for a usage that the caller did not ask for.
        """
        if upstream.asked.system_first and isinstance(self.job.request, ChatRequest):
            late = has_late_system([message.role for message in self.job.request.messages])
            self.dropped += (MOVED,) * (late and MOVED not in self.dropped)
            self._refuse(self.dropped)
        self._unstreamed = asks_plainly(self.job.request, upstream)
        if self._unstreamed:
            self._first = None
        elif upstream.asked.bare and isinstance(self.job.request, ChatRequest | CompletionRequest):
            options = self.job.request.stream_options
            if options is not None and options.include_usage:
                self.dropped = (*self.dropped, "stream_options.include_usage")
                self._refuse(self.dropped)
            else:
                self.dropped = (*self.dropped, "usage")

    def _of_missing_path(self, error: PathMissing) -> RoundhouseError:
        """The error itself, or for a chat a fault: every chat server has that path, so its proxy is at fault."""
        facts = self.job.facts
        if facts.capability is not Capability.CHAT or facts.tokens_only or self.model.local:
            return error
        return UpstreamError(
            f"{error.message.rstrip('.')}. Its path may be missing just now; if that lasts, check its base_url.",
            upstream_status=error.upstream_status,
        )

    def _refuse(self, dropped: tuple[str, ...]) -> None:
        refuse_lost(dropped, self.job, self.model)

    async def _pull(self) -> bool:
        assert self._source is not None
        try:
            item = await anext(self._source)
        except StopAsyncIteration:
            if not self._observer.begun:
                raise StreamBroken(f"'{self.model.id}' closed the stream before sending content.") from None
            self._end()
            return False
        self._observer.see(item)
        if self._judge is not None:
            self._judge.see(item)
        if self._first is None and self._observer.begun and not self._unstreamed:
            self._first = self._context.clock.monotonic() - self._began
        self._early.append(item)
        return True

    def _end(self) -> None:
        """Note the end, and what was lost by then. Raises UnsupportedParameter for a lack under ``strict``."""
        self._ended = True
        self._note_reported()
        wanted = _choices(self.job.request)
        if wanted > 1 and isinstance(self._observer, ChunkObserver) and self._observer.choices < wanted:
            self._ignored("n")
        usage, most = self._observer.usage, most_asked(self._facts, self.bound)
        if most is not None and usage.known and usage.output - usage.reasoning > most:
            self._ignored("max_tokens")

    def _ignored(self, name: str) -> None:
        """Name a parameter that the upstream took and did not keep to. Raises UnsupportedParameter if strict."""
        if name not in self.dropped:
            self.dropped = (*self.dropped, name)
            self._refuse((name,))

    def timings(self) -> dict[str, float | None]:
        """The model's context window in tokens, and seconds since the beginning of the attempt.

        ``time_to_first_token`` is null for an answer that does not come in pieces.
        """
        return {
            "context_window": self.model.limits.context_window,
            "time_to_first_token": None if self._first is None else round(self._first, 4),
            "latency": round(self._context.clock.monotonic() - self._began, 4),
        }

    def items(self) -> AsyncGenerator[T]:
        """The items received so far, then the rest as they arrive.

        The end of an answer whose form is insisted on waits for the check of the whole. Raises the backend's
        errors, of which StreamBroken and the timeouts may come after the first item, and AnswerInvalid.
        """
        return self._in_form() if self._judge is not None and insists(self.job.request) else self._arriving()

    async def _in_form(self) -> AsyncGenerator[T]:
        """The items; those from the end of the last choice on pass once the whole answer has its form."""
        unended = _choices(self.job.request)
        last: list[T] = []
        async with aclosing(self._arriving()) as items:
            async for item in items:
                unended -= ends_of(item)
                if unended > 0:
                    yield item
                elif len(last) < _MOST_AFTER_END:
                    last.append(item)
                else:
                    self._error = UpstreamProtocolError(f"'{self.model.id}' goes on after the end of its answer.")
                    raise self._error
        try:
            self._check_form()
        except AnswerInvalid as error:
            self._error = error
            raise
        for item in last:
            yield item

    async def _arriving(self) -> AsyncGenerator[T]:
        see, judge = self._observer.see, self._judge
        try:
            early, self._early = self._early, []
            for item in early:
                yield item
            early.clear()
            if self._ended:
                return
            assert self._source is not None
            async for item in self._source:
                see(item)
                if judge is not None:
                    judge.see(item)
                yield item
            self._end()
        except Exception as error:
            self._error = error
            raise

    async def close(self, error: BaseException | None = None) -> None:
        """Close the upstream, give everything back and record; once, and also if the caller is cancelled."""
        if self._closing is None:
            if self._closed:
                return
            self._closed = True
            self._error = self._error or error
            if self._ended and self._lease is not None and not self._lease.waits:
                # Nothing suspends, so nothing can cancel it half-way: no task of its own is needed.
                await self._release()
                return
            self._closing = self._context.spawn(self._release())
        await asyncio.shield(self._closing)

    async def _release(self) -> None:
        outcome, estimate = self._conclude()
        # Dropped, because its traceback forms a reference cycle with this attempt.
        error, self._error = self._error, None
        if self._lease is not None and self.job.operation is not DISCARD:  # which makes nothing, and is free
            partly = bool(outcome.unknown_parts)
            if estimate is None and (partly or outcome.cost is None):
                reserved = self._lease.reservation.amount
                estimate = usual_part(reserved, self.model, self._facts, self._context.spend, self.bound)
            if partly and (least := self._context.spend.as_text(self.model.price, outcome.usage)) is not None:
                reserved = self._lease.reservation.amount if estimate is None else estimate
                estimate = max(least, reserved or 0.0)
            self._lease.reservation.settle(outcome.cost, outcome.usage, estimate=estimate, partly=partly)
        try:
            if self._source is not None:
                await _aclose(self._source)
        finally:
            try:
                # The pool sees why a call failed: a worker that does not answer is replaced.
                await self._held.__aexit__(type(error) if error else None, error, None)
            finally:
                error = None
                self._context.record(outcome)

    def _conclude(self) -> tuple[Outcome, float | None]:
        """The outcome, and the dollars to book if its cost is unknown; None for the reserved amount."""
        error, seen = self._error, self._observer
        usage = seen.usage
        result = self._result()
        cost: float | None = 0.0
        unknown: tuple[str, ...] = ()
        estimate: float | None = None
        drawn = seen if isinstance(seen, ImageObserver) else None
        if drawn is not None and self._notes is not None and self._notes.usage is not None:
            drawn.bill(self._notes.usage)
        if not seen.begun and self._may_be_billed(result):
            usage = Usage(input=self.job.facts.prompt_tokens, known=False)
            if drawn is not None and drawn.usage.known:
                usage = drawn.usage
            cost, unknown = self._context.spend.cost(self.model.price, usage, self.job.facts.capability)
            estimate = self._context.spend.cost_so_far(self.model.price, self.job.facts)
        elif seen.begun:
            came = 0 if usage.known else seen.streamed
            if not usage.known and (came or result is Result.CANCELLED):
                usage = Usage(input=self.job.facts.prompt_tokens, output=came, known=False)
            if not self.job.facts.tokens_only:
                if self.job.facts.tiers and getattr(seen, "tier", None) is None:
                    usage = in_tiers(usage, self.model.price.rates.undiscounted(self.job.facts.tiers))
                cost, unknown = self._context.spend.cost(self.model.price, usage, self.job.facts.capability)
                if drawn is not None and drawn.finish_reason is None and result in _CUT:
                    unknown += ("usage",) * ("usage" not in unknown)  # the rest may have been drawn, too
                if came and result not in (Result.SUCCESS, Result.REFUSAL):
                    estimate = self._context.spend.cost_so_far(
                        self.model.price, self.job.facts, self._decoded(came)
                    )
        failure = error if isinstance(error, RoundhouseError) else None
        outcome = Outcome(
            trace=self.job.trace,
            attempt=self.number,
            model=self.model.id,
            endpoint=self.model.endpoint_name,
            facts=self.job.facts,
            result=result,
            at=self._context.clock.wall(),
            queued=self._queued,
            first_chunk=self._first,
            duration=self._context.clock.monotonic() - self._began,
            usage=usage,
            cost=cost,
            unknown_parts=unknown,
            finish_reason=seen.finish_reason,
            error=failure.code if failure else ("internal_error" if isinstance(error, Exception) else None),
            status=getattr(failure, "upstream_status", None),
            retry_after=failure.retry_after if failure else None,
            valid=self.verdict() if result is Result.SUCCESS else None,
            provider_key=self._lease.provider_key if self._lease else None,
            unstreamed=self._unstreamed,
            bound=None if self.bound is None else str(self.bound),
            scope=getattr(failure, "scope", None),
            lacks=getattr(failure, "lacks", None) or frozenset(),
        )
        return outcome, estimate

    def _decoded(self, came: int) -> int:
        """The output tokens that the upstream may bill for an answer without its usage, of which ``came`` came."""
        thought = 0.0
        if Capability.REASONING in self.model.capabilities:
            thought = self._context.clock.monotonic() - self._began if self._first is None else self._first
        return most_decoded(came, self.job.facts, thought)

    def _may_be_billed(self, result: Result) -> bool:
        """Whether the upstream may have billed the prompt, though none of the answer came.

        So it may if the caller left while it was answering: a short moment of connecting is not told apart.
        """
        if result is Result.CANCELLED:
            return self._source is not None
        return getattr(self._error, "may_bill", False) and self._source is not None

    def _result(self) -> Result:
        error = self._error
        if error is None:
            if not self._ended and self._observer.finish_reason is None:
                return Result.CANCELLED
            return Result.REFUSAL if self._observer.finish_reason == "content_filter" else Result.SUCCESS
        if isinstance(error, EngineMissing) or getattr(error, "lacks", None) is not None:
            return Result.CANNOT
        if isinstance(error, InvalidRequest | RateLimited | Draining | OWN_FAULTS):
            return Result.REJECTED
        if isinstance(error, Exception):
            return Result.FAILED
        return Result.CANCELLED


def _choices(request: Any) -> int:
    """The number of answers that a request asks for; an undeclared ``n`` may have any type, and says nothing."""
    return (request.n or 1) if isinstance(request, Sampling) else 1


async def _aclose(source: Any) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()
