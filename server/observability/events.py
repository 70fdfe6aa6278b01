"""The log lines of what has no request of its own to answer for it: attempts that failed, and workers."""

from __future__ import annotations

import structlog

from backends.workers.worker import Observer
from routing.outcomes import Outcome, Result

_LOUD = frozenset({Result.FAILED, Result.CANNOT})


class AttemptLog:
    """One line per attempt, as an :class:`routing.outcomes.OutcomeSink`.

    A failed one is a warning: a fallback may have hidden it from the caller. The ids of the request come with the
    context it ran in.
    """

    def __init__(self) -> None:
        # Bound once: what get_logger answers is bound anew for every line, written or not.
        self._log = structlog.get_logger("server.attempts").bind()

    def record(self, outcome: Outcome) -> None:
        """Write the line."""
        tell = self._log.warning if outcome.result in _LOUD else self._log.debug
        tell(
            "attempt",
            trace=outcome.trace,
            attempt=outcome.attempt,
            model=outcome.model,
            endpoint=outcome.endpoint,
            result=outcome.result.value,
            code=outcome.error,
            upstream_status=outcome.status,
            provider_key=outcome.provider_key,
            seconds=round(outcome.duration, 4),
        )


class WorkerEvents:
    """One line per thing that befalls a worker, with the place of its own log; then ``following`` is told."""

    def __init__(self, following: Observer) -> None:
        self._next = following
        self._log = structlog.get_logger("server.workers")

    def loaded(self, model: str, seconds: float) -> None:
        """A worker became ready."""
        self._log.info("worker ready", model=model, seconds=round(seconds, 3))
        self._next.loaded(model, seconds)

    def load_failed(self, model: str, reason: str) -> None:
        """A worker did not become ready, or was given up."""
        self._log.error("worker failed", model=model, reason=reason, its_log=_read(model))
        self._next.load_failed(model, reason)

    def died(self, model: str, reason: str) -> None:
        """A worker ended by itself."""
        self._log.error("worker died", model=model, reason=reason, its_log=_read(model))
        self._next.died(model, reason)

    def unloaded(self, model: str, *, evicted: bool) -> None:
        """A worker was stopped."""
        self._log.info("worker stopped", model=model, evicted=evicted)
        self._next.unloaded(model, evicted=evicted)


def _read(model: str) -> str:
    return f"roundhouse logs {model}"
