"""Prometheus metrics, one registry per app. ``docs/reference/metrics.md`` lists every metric.

Label values are bounded: routes are templates, models are rows of the catalogue, codes are those of
``catalog/errors.py``. No key, prompt or address is a label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

from backends.workers.pool import WorkerPool
from routing.outcomes import Outcome, Result
from server.observability.collectors import Caps, CircuitStates, Keys, PoolCollector, QueueLoads, RoutingCollector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)

M = TypeVar("M", Counter, Histogram)


class _Series(Generic[M]):
    """Caches a metric's series by label values: the lookup in prometheus_client costs more than the count."""

    __slots__ = ("_known", "_metric")

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._known: dict[tuple[str, ...], M] = {}

    def __call__(self, *values: str) -> M:
        found = self._known.get(values)
        if found is None:
            found = self._known[values] = self._metric.labels(*values) if values else self._metric
        return found


class Metrics:
    """Counts requests, attempts (as a :class:`routing.outcomes.OutcomeSink`) and events of workers (as a
    :class:`backends.workers.observer.WorkerObserver`).
    """

    def __init__(
        self,
        in_flight: Callable[[], int] = lambda: 0,
        draining: Callable[[], bool] = lambda: False,
        sessions: Callable[[], int] = lambda: 0,
    ) -> None:
        """``in_flight`` is the number of requests in flight, and ``sessions`` that of realtime sessions;
        ``draining`` is true while the server shuts down.
        """
        self.registry = registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> _Series[Counter]:
            return _Series(Counter(name, meaning, labels, registry=registry))

        def histogram(
            name: str, meaning: str, *labels: str, buckets: Sequence[float] = SECONDS
        ) -> _Series[Histogram]:
            return _Series(Histogram(name, meaning, labels, registry=registry, buckets=buckets))

        self._requests = counter("roundhouse_requests", "Requests answered", "route", "method", "status")
        self._request_seconds = histogram(
            "roundhouse_request_seconds", "Seconds from a request's first byte to its answer's last", "route"
        )
        self._errors = counter("roundhouse_errors", "Errors returned to callers, by code", "code")
        self._attempts = counter(
            "roundhouse_attempts", "Calls of a model, fallbacks included", "model", "endpoint", "task", "result"
        )
        self._fallbacks = counter(
            "roundhouse_fallbacks",
            "Attempts after a request's first, by the model that was tried",
            "model",
        )
        self._failures = counter("roundhouse_attempt_failures", "Attempts that failed, by code", "model", "code")
        self._first_chunk = histogram(
            "roundhouse_time_to_first_token_seconds",
            "Seconds from the start of an attempt to its first chunk, if it was streamed",
            "model",
        )
        self._queued = histogram(
            "roundhouse_queue_seconds", "Seconds that an attempt waited for a worker or a key", "model"
        )
        self._rate = histogram(
            "roundhouse_tokens_per_second",
            "Tokens per second of an answer after its first token",
            "model",
            buckets=RATES,
        )
        self._tokens = counter(
            "roundhouse_tokens", "Tokens, by direction: input, output, cached", "model", "direction"
        )
        self._cost = counter("roundhouse_cost_dollars", "Known cost of attempts", "model")
        self._cost_unknown = counter(
            "roundhouse_cost_unknown",
            "Attempts of whose cost a part is unknown: no price, or no usage reported",
            "model",
        )
        self._load_seconds = histogram(
            "roundhouse_model_load_seconds", "Seconds that a model took to load", "model"
        )
        self._worker_events = counter(
            "roundhouse_worker_events",
            "Events of workers: loaded, load_failed, died, unloaded, evicted",
            "model",
            "event",
        )
        self._reply_seconds = histogram(
            "roundhouse_realtime_reply_seconds",
            "Seconds from the end of a speaker's turn, its silence included, to the first sound of the answer",
        )
        sessions_gauge = Gauge("roundhouse_realtime_sessions", "Open realtime sessions", registry=registry)
        sessions_gauge.set_function(sessions)
        in_flight_gauge = Gauge("roundhouse_in_flight", "Requests in flight", registry=registry)
        in_flight_gauge.set_function(in_flight)
        draining_gauge = Gauge("roundhouse_draining", "1 while shutting down", registry=registry)
        draining_gauge.set_function(lambda: float(draining()))

    def watch(self, pool: WorkerPool) -> Collector:
        """Read the pool's workers and devices at each scrape. Returns the collector, to be unregistered."""
        collector = PoolCollector(pool)
        self.registry.register(collector)
        return collector

    def watch_routing(self, circuits: CircuitStates, keys: Keys, caps: Caps, queue_loads: QueueLoads) -> Collector:
        """Read circuits, keys, caps and queues at each scrape. Returns the collector, to be unregistered."""
        collector = RoutingCollector(circuits, keys, caps, queue_loads)
        self.registry.register(collector)
        return collector

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that ended; ``status`` is 0 if no answer was begun."""
        self._requests(route, method if method in _METHODS else "other", str(status)).inc()
        self._request_seconds(route).observe(seconds)

    def session(self, route: str, status: int) -> None:
        """Count a WebSocket that ended; its length says nothing of speed. ``status`` is 101 if it was open."""
        self._requests(route, "GET", str(status)).inc()

    def reply(self, seconds: float) -> None:
        """Count the silence before a spoken answer."""
        self._reply_seconds().observe(seconds)

    def error(self, code: str) -> None:
        """Count an error returned to a caller."""
        self._errors(code).inc()

    def record(self, outcome: Outcome) -> None:
        """Count an attempt that ended."""
        model = outcome.model
        self._attempts(model, outcome.endpoint, outcome.facts.task.value, outcome.result.value).inc()
        self._queued(model).observe(outcome.queued)
        if outcome.result is Result.FAILED:
            self._failures(model, outcome.error or "unknown").inc()
        if outcome.attempt > 1:
            self._fallbacks(model).inc()
        if outcome.cost is None or outcome.unknown_parts:
            self._cost_unknown(model).inc()
        if outcome.cost:
            self._cost(model).inc(outcome.cost)
        usage = outcome.usage
        if usage.known:
            self._tokens(model, "input").inc(usage.input)
            self._tokens(model, "output").inc(usage.output)
            if usage.cached:
                self._tokens(model, "cached").inc(usage.cached)
        if outcome.first_chunk is None:
            return
        self._first_chunk(model).observe(outcome.first_chunk)
        decoding = outcome.duration - outcome.first_chunk
        if usage.known and usage.output > 1 and decoding > 0:
            self._rate(model).observe((usage.output - 1) / decoding)

    def loaded(self, model: str, seconds: float) -> None:
        """Count a worker that became ready."""
        self._load_seconds(model).observe(seconds)
        self._worker_events(model, "loaded").inc()

    def load_failed(self, model: str, reason: str) -> None:
        """Count a worker that did not become ready."""
        del reason
        self._worker_events(model, "load_failed").inc()

    def died(self, model: str, reason: str) -> None:
        """Count a worker whose process ended unexpectedly."""
        del reason
        self._worker_events(model, "died").inc()

    def unloaded(self, model: str, *, evicted: bool) -> None:
        """Count a worker that was stopped: evicted for memory, or idle, or on request."""
        self._worker_events(model, "evicted" if evicted else "unloaded").inc()

    def render(self) -> bytes:
        """All metrics in the text format of Prometheus, version 0.0.4."""
        return generate_latest(self.registry)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
