"""The answer of the candidate that answered first."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from backends.headers import header_list, header_value
from catalog.errors import RoundhouseError
from routing.calling.attempt import Attempt
from routing.calling.watching.endings import notice

T = TypeVar("T")
TIMINGS = "x-roundhouse"
"""The name in a usage object under which a caller that asks is told the times of the answer."""
CHOICE_HEADERS = {
    "x-roundhouse-model": "The model that answered.",
    "x-roundhouse-trace": "The id of the request's trace, for /v1/traces and /v1/outcomes.",
    "x-roundhouse-reason": "The reason for this model.",
    "x-roundhouse-attempts": "The number of attempts, fallbacks included.",
    "x-roundhouse-dropped": "Parameters that the model's server did not take, if any.",
    "x-roundhouse-bound": "The most tokens of the answer by a limit on cost or tokens, and the limit, if any.",
    "x-roundhouse-stand-in": "The name that was asked for, where the settings let another model stand in for it.",
    "x-roundhouse-effort": "The reasoning effort that the router asked for, where the caller named none.",
    "x-roundhouse-notice": "What to know of the model: its announced end, or that it is not made for the request.",
}
"""The response headers about a choice, and what each says."""


class Answer(Generic[T]):
    """An answer whose first item is there: iterate it for the items, in order.

    Iterating raises what :meth:`Attempt.items` raises.
    """

    def __init__(
        self, attempt: Attempt[T], reason: str, go_on: Callable[[Answer[T], RoundhouseError], Awaitable[None]]
    ) -> None:
        """``go_on`` does the work of :meth:`resume`."""
        self.trace = attempt.job.trace
        self._go_on = go_on
        self.adopt(attempt, reason)

    def adopt(self, attempt: Attempt[T], reason: str) -> None:
        """Become the answer of ``attempt``."""
        self.attempt = attempt
        self.model = attempt.model
        self.reason = reason
        self.attempts = attempt.number

    @property
    def dropped(self) -> tuple[str, ...]:
        """The parameters that the model's server did not take; the end of the answer may add some."""
        return self.attempt.dropped

    @property
    def provider_key(self) -> str | None:
        """The digest of the provider's key that the call carries; None without one."""
        return self.attempt.provider_key

    @property
    def spent(self) -> float:
        """Dollars of all attempts once the answer is closed, and of earlier jobs of the same request."""
        return self.attempt.total_spent

    async def resume(self, error: RoundhouseError) -> None:
        """After ``error`` broke it, become the answer of another candidate: iterate it again, from its first item.

        Only for a caller that has passed nothing on. Raises ``error`` if no other candidate can help, else the
        error of the last that was tried.
        """
        await self._go_on(self, error)

    def headers(self) -> dict[str, str]:
        """The headers of :data:`CHOICE_HEADERS` that apply."""
        headers = {
            "x-roundhouse-model": self.model.id,
            "x-roundhouse-trace": self.trace,
            "x-roundhouse-reason": header_value(self.reason),
            "x-roundhouse-attempts": str(self.attempts),
        }
        if self.dropped:
            headers["x-roundhouse-dropped"] = header_list(self.dropped)
        if self.attempt.bound is not None:
            headers["x-roundhouse-bound"] = str(self.attempt.bound)
        if self.attempt.job.facts.stands_for is not None:
            headers["x-roundhouse-stand-in"] = header_value(self.attempt.job.facts.stands_for)
        if self.attempt.effort is not None:
            headers["x-roundhouse-effort"] = self.attempt.effort
        if self.model.ends is not None or self.attempt.notices:
            ending = notice(self.model, self.attempt.wall())
            told = [*self.attempt.notices, *([] if ending is None else [ending])]
            headers["x-roundhouse-notice"] = header_value("; ".join(told))
        return headers

    def __aiter__(self) -> AsyncIterator[T]:
        return self._timed() if self.attempt.job.facts.intent.timings else self.attempt.items()

    async def _timed(self) -> AsyncIterator[T]:
        """The items; a usage object has the answer's context window and times under ``x-roundhouse``."""
        async with aclosing(self.attempt.items()) as items:
            async for item in items:
                usage = item.get("usage") if isinstance(item, dict) else None
                if isinstance(usage, dict):
                    usage[TIMINGS] = self.attempt.timings()
                yield item


class WatchedAnswer(Answer[T]):
    """An answer whose items are shown to ``see`` before they pass."""

    def __init__(self, answer: Answer[T], see: Callable[[Any], None]) -> None:
        super().__init__(answer.attempt, answer.reason, self._resume_inner)
        self._inner = answer
        self._see = see

    async def _resume_inner(self, _: Answer[T], error: RoundhouseError) -> None:
        await self._inner.resume(error)
        self.adopt(self._inner.attempt, self._inner.reason)

    def __aiter__(self) -> AsyncIterator[T]:
        return self._watched()

    async def _watched(self) -> AsyncIterator[T]:
        items = aiter(self._inner)
        try:
            async for item in items:
                self._see(item)
                yield item
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()
