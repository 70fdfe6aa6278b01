"""Log lines of attempts and of workers, whose failures a request's own line may not show."""

from __future__ import annotations

import structlog

from backends.workers.observer import WorkerObserver
from routing.outcomes import Outcome, Result

_WARNED = frozenset({Result.FAILED, Result.CANNOT})


class AttemptLog:
    """One line per attempt, as an :class:`routing.outcomes.OutcomeSink`.

    A failure is a warning, because a fallback may have hidden it from the caller. The line has the ids of the
    request through the context variables of the task.
    """

    def __init__(self) -> None:
        # Bound once: the proxy of get_logger binds a logger for each line, even one below the level.
        self._log = structlog.get_logger("server.attempts").bind()

    def record(self, outcome: Outcome) -> None:
        """Write the line."""
        write = self._log.warning if outcome.result in _WARNED else self._log.debug
        write(
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
    """One line per event of a worker, with the command that shows its log. Forwards to ``next_observer``."""

    def __init__(self, next_observer: WorkerObserver) -> None:
        self._next = next_observer
        self._log = structlog.get_logger("server.workers")

    def loaded(self, model: str, seconds: float) -> None:
        """A worker became ready."""
        self._log.info("worker ready", model=model, seconds=round(seconds, 3))
        self._next.loaded(model, seconds)

    def load_failed(self, model: str, reason: str) -> None:
        """A worker did not become ready, or died too often."""
        self._log.error("worker failed", model=model, reason=reason, its_log=_log_command(model))
        self._next.load_failed(model, reason)

    def died(self, model: str, reason: str) -> None:
        """A worker's process ended unexpectedly."""
        self._log.error("worker died", model=model, reason=reason, its_log=_log_command(model))
        self._next.died(model, reason)

    def unloaded(self, model: str, *, evicted: bool) -> None:
        """A worker was stopped."""
        self._log.info("worker stopped", model=model, evicted=evicted)
        self._next.unloaded(model, evicted=evicted)


def _log_command(model: str) -> str:
    return f"roundhouse logs {model}"
