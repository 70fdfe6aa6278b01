"""Gauges that are read at each scrape, so that workers and endpoints that are gone leave no stale series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backends.workers.pool import PoolSnapshot, WorkerPool, WorkerView, of_cluster
from routing.accounts.caps import CapUsage
from routing.upstreams.breaker import CircuitKey
from routing.upstreams.circuit import CircuitState
from routing.upstreams.concurrency import QueueLoad
from routing.upstreams.provider_keys import KeyStatistics

CircuitStates = Callable[[], Mapping[CircuitKey, CircuitState]]
Keys = Callable[[], Iterable[KeyStatistics]]
Caps = Callable[[], Iterable[CapUsage]]
QueueLoads = Callable[[], Iterable[QueueLoad]]


class PoolCollector(Collector):
    """Workers and devices of a pool."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def collect(self) -> Iterable[Metric]:
        """The metric families now."""
        return pool_families(self._pool.snapshot())

    def describe(self) -> Iterable[Metric]:
        """The same families without samples, so that registering does not read the pool."""
        return pool_families(PoolSnapshot())


class RoutingCollector(Collector):
    """Circuit breakers, providers' keys, spend caps of the whole gateway, and queues of endpoints."""

    def __init__(self, circuits: CircuitStates, keys: Keys, caps: Caps, queue_loads: QueueLoads) -> None:
        self._circuits = circuits
        self._keys = keys
        self._caps = caps
        self._queue_loads = queue_loads

    def collect(self) -> Iterable[Metric]:
        """The metric families now."""
        return routing_families(self._circuits(), self._keys(), self._caps(), self._queue_loads())

    def describe(self) -> Iterable[Metric]:
        """The same families without samples."""
        return routing_families({}, (), (), ())


def pool_families(snapshot: PoolSnapshot) -> list[Metric]:
    """A snapshot as metrics."""
    labels = ("model", "engine", "device")
    state = GaugeMetricFamily(
        "roundhouse_worker_state", "1 for the state a worker is in", labels=(*labels, "state")
    )
    memory = GaugeMetricFamily("roundhouse_worker_memory_bytes", "Resident memory of a worker", labels=labels)
    busy = GaugeMetricFamily("roundhouse_worker_busy", "Requests a worker is answering", labels=labels)
    slots = GaugeMetricFamily(
        "roundhouse_worker_slots", "Requests a worker can answer concurrently", labels=labels
    )
    queued = GaugeMetricFamily("roundhouse_queue_depth", "Requests waiting for a worker", labels=labels)
    restarts = CounterMetricFamily("roundhouse_worker_restarts", "Restarts of a worker that died", labels=labels)
    loaded = GaugeMetricFamily("roundhouse_loaded_models", "Models that are ready")
    for worker in _one_of_each(snapshot.workers):
        values = (worker.model, worker.engine, worker.device)
        state.add_metric((*values, worker.state.value), 1)
        memory.add_metric(values, worker.memory)
        busy.add_metric(values, worker.busy)
        slots.add_metric(values, worker.slots)
        queued.add_metric(values, worker.queued)
        restarts.add_metric(values, worker.restarts)
    loaded.add_metric((), sum(worker.state.value == "ready" for worker in snapshot.models))
    budget = GaugeMetricFamily("roundhouse_device_budget_bytes", "Memory workers may use", labels=("device",))
    used = GaugeMetricFamily("roundhouse_device_used_bytes", "Memory workers use", labels=("device",))
    for device in snapshot.devices:
        budget.add_metric((device.id,), device.budget)
        used.add_metric((device.id,), device.used)
    return [state, memory, busy, slots, queued, restarts, loaded, budget, used, *_cluster_families(snapshot)]


def _one_of_each(workers: Sequence[WorkerView]) -> Iterable[WorkerView]:
    """One view for each device of a model: a node may run several replicas of it, whose figures are added up."""
    groups: dict[tuple[str, str], list[WorkerView]] = {}
    for worker in workers:
        groups.setdefault((worker.model, worker.device), []).append(worker)
    return (of_cluster(group, (), ()).models[0] for group in groups.values())


def _cluster_families(snapshot: PoolSnapshot) -> list[Metric]:
    """The replicas and nodes of a cluster; no samples without one."""
    replicas = GaugeMetricFamily(
        "roundhouse_replicas", "Workers of a model in a cluster by state", labels=("model", "state")
    )
    counts = Counter((worker.model, worker.state.value) for worker in snapshot.workers if worker.replica)
    for (model, state), count in counts.items():
        replicas.add_metric((model, state), count)
    total = GaugeMetricFamily(
        "roundhouse_node_resource", "Resources of a node of the cluster", labels=("node", "resource")
    )
    used = GaugeMetricFamily(
        "roundhouse_node_resource_used", "Resources of a node that workers hold", labels=("node", "resource")
    )
    for node in snapshot.nodes:
        for name, amount in node.total.items():
            if not name.startswith("node:"):
                total.add_metric((node.name, name), amount)
                used.add_metric((node.name, name), node.used.get(name, 0.0))
    return [replicas, total, used]


def routing_families(
    circuits: Mapping[CircuitKey, CircuitState],
    keys: Iterable[KeyStatistics],
    caps: Iterable[CapUsage],
    queue_loads: Iterable[QueueLoad],
) -> list[Metric]:
    """The router's state of upstreams and spend as metrics."""
    circuit = GaugeMetricFamily(
        "roundhouse_breaker_state",
        "1 for the state of a model's circuit breaker at an endpoint: closed, half_open, open",
        labels=("model", "endpoint", "state"),
    )
    for (model, endpoint), state in circuits.items():
        circuit.add_metric((model, endpoint, state.value), 1)
    key = GaugeMetricFamily(
        "roundhouse_provider_keys",
        "Keys of an endpoint by state: usable, resting (rate limited), out (refused)",
        labels=("endpoint", "state"),
    )
    counts = Counter((one.endpoint, _key_state(one)) for one in keys)
    for endpoint in sorted({endpoint for endpoint, _ in counts}):
        for name in ("usable", "resting", "out"):
            key.add_metric((endpoint, name), counts[endpoint, name])
    cap = GaugeMetricFamily(
        "roundhouse_spend_cap_dollars", "The most that may be spent in a window", labels=("window",)
    )
    spent = GaugeMetricFamily(
        "roundhouse_spend_used_dollars",
        "Spent and reserved in the current window of a cap, by all gateways",
        labels=("window",),
    )
    for row in caps:
        cap.add_metric((row.window.value,), row.cap)
        spent.add_metric((row.window.value,), row.spent)
    busy = GaugeMetricFamily(
        "roundhouse_endpoint_busy", "Calls in flight at an endpoint with max_concurrency", labels=("endpoint",)
    )
    queued = GaugeMetricFamily(
        "roundhouse_endpoint_queue_depth",
        "Calls queued for an endpoint with max_concurrency",
        labels=("endpoint",),
    )
    for load in queue_loads:
        busy.add_metric((load.endpoint,), load.busy)
        queued.add_metric((load.endpoint,), load.waiting)
    return [circuit, key, cap, spent, busy, queued]


def _key_state(key: KeyStatistics) -> str:
    if key.out:
        return "out"
    return "resting" if key.resting > 0 else "usable"
