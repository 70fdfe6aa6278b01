"""The totals of one request over its attempts, for its line in the access log."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass

from routing.outcomes import Outcome


@dataclass(slots=True)
class Totals:
    """The models' work for a request. ``model`` is the last that was called; empty if none was.

    ``first`` is the seconds from the start of the last attempt to its first chunk, ``None`` if it sent none or did
    not stream. ``cost`` is the known part in dollars; ``unknown``: it has others. ``open`` counts the answers that
    are still being closed when the request has ended, after which their attempts are known.
    """

    model: str = ""
    attempts: int = 0
    input: int = 0
    output: int = 0
    counted: bool = False
    first: float | None = None
    cost: float = 0.0
    unknown: bool = False
    open: int = 0
    _whole: Callable[[], None] | None = None

    def hold(self) -> None:
        """Count an answer that closes by itself, until :meth:`release`."""
        self.open += 1

    def release(self) -> None:
        """Note that such an answer is closed."""
        self.open -= 1
        if not self.open and self._whole is not None:
            self._whole()

    def when_whole(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` once every answer of the request, which has ended, is closed: now, or later."""
        if self.open:
            self._whole = tell
        else:
            tell()

    def add(self, outcome: Outcome) -> None:
        """Count an attempt that ended."""
        self.model = outcome.model
        self.attempts += 1
        usage = outcome.usage
        if usage.known:
            self.counted = True
            self.input += usage.input
            self.output += usage.output
        self.first = outcome.first_chunk
        if outcome.cost is None or outcome.unknown_parts:
            self.unknown = True
        self.cost += outcome.cost or 0.0


_OF_THIS_REQUEST: ContextVar[Totals | None] = ContextVar("totals", default=None)
"""The tasks that a request starts inherit it; work that outlives every request has none."""


def begin_totals() -> tuple[Totals, Token[Totals | None]]:
    """Count the attempts of this task, and of those that it starts, until :func:`end_totals`."""
    totals = Totals()
    return totals, _OF_THIS_REQUEST.set(totals)


def current_totals() -> Totals | None:
    """The totals of the request that this task serves, if it serves one."""
    return _OF_THIS_REQUEST.get()


def end_totals(token: Token[Totals | None]) -> None:
    """Stop counting for this task."""
    _OF_THIS_REQUEST.reset(token)


class RequestTotals:
    """Counts each attempt for its request, as an :class:`routing.outcomes.OutcomeSink`."""

    def record(self, outcome: Outcome) -> None:
        """Add the outcome to the request of this task, if it is of one."""
        totals = _OF_THIS_REQUEST.get()
        if totals is not None:
            totals.add(outcome)
