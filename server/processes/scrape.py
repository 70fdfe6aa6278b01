"""One Prometheus scrape of several gateway processes: the sum of their samples.

Each process has a registry of its own. The parent collects their samples at each scrape and every few seconds, so
that a killed process loses few counts. It adds the counters of processes that have ended, so that no counter ever
decreases, and its own metrics of workers, devices and processes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from catalog.errors import RoundhouseError
from server.observability.metrics import Metrics

if TYPE_CHECKING:
    from server.processes.gateway_child import GatewayChild

Exported = list[Any]
"""JSON: ``[[family, type, help, [[sample, {label: value}, number], ...]], ...]``."""

COLLECT_INTERVAL = 5.0
COLLECT_TIMEOUT = 2.0
"""Seconds."""

_CREATED_SUFFIX = "_created"
_SAME_EVERYWHERE = frozenset(
    {
        "roundhouse_draining",
        "roundhouse_breaker_state",
        "roundhouse_provider_keys",
        "roundhouse_spend_cap_dollars",
        "roundhouse_spend_used_dollars",
    }
)
"""Families that measure one thing in every process: the largest value counts, not the sum."""
_CUMULATIVE = frozenset({"counter", "histogram", "summary"})


def export(registry: CollectorRegistry) -> Exported:
    """The present samples of a registry."""
    return [
        [family.name, family.type, family.documentation, [[s.name, s.labels, s.value] for s in family.samples]]
        for family in registry.collect()
    ]


class FleetMetrics:
    """Metrics of all gateway processes and of their parent, whose own are in ``own``."""

    def __init__(self, gateways: Collection[GatewayChild]) -> None:
        """``gateways`` is the fleet's own collection, which changes as processes start and end."""
        self.own = Metrics()
        self.restarts = register_process_metrics(
            self.own.registry, lambda: sum(gateway.ready.is_set() for gateway in gateways)
        )
        self._gateways = gateways
        self._samples = ProcessSamples()

    async def run(self) -> None:
        """Collect samples periodically until cancelled."""
        while True:
            await asyncio.sleep(COLLECT_INTERVAL)
            await self._collect()

    async def render(self) -> str:
        """All metrics now, in the text format of Prometheus."""
        await self._collect()
        return self._samples.render((export(self.own.registry),)).decode()

    def report(self, pid: int, exported: Exported) -> None:
        """Take the samples that a process sent by itself, at its end."""
        self._samples.report(pid, exported)

    def ended(self, pid: int) -> None:
        """Keep the counters of a process that has ended, and drop its gauges."""
        self._samples.ended(pid)

    async def _collect(self) -> None:
        serving = [gateway for gateway in self._gateways if gateway.ready.is_set()]
        await asyncio.gather(*(self._collect_from(gateway) for gateway in serving))

    async def _collect_from(self, gateway: GatewayChild) -> None:
        """Ask one process for its samples; without an answer its previous samples remain."""
        with contextlib.suppress(RoundhouseError, TimeoutError):
            async with asyncio.timeout(COLLECT_TIMEOUT):
                samples = await gateway.channel.call("samples")
            if gateway in self._gateways:
                self._samples.report(gateway.pid, samples)


def register_process_metrics(registry: CollectorRegistry, serving: Callable[[], int]) -> Counter:
    """Register a gauge of the gateway processes that serve, and the counter of restarts, which is returned."""
    running = Gauge(
        "roundhouse_gateway_processes", "Gateway processes that serve (only with --workers)", registry=registry
    )
    running.set_function(serving)
    return Counter(
        "roundhouse_gateway_restarts",
        "Restarts of gateway processes that died (only with --workers)",
        registry=registry,
    )


class ProcessSamples:
    """The latest samples of each process, and the counters of those that have ended."""

    def __init__(self) -> None:
        self._latest: dict[int, Exported] = {}
        self._ended = SampleSum()

    def report(self, pid: int, exported: Exported) -> None:
        """Replace the samples of a process."""
        self._latest[pid] = exported

    def ended(self, pid: int) -> None:
        """Keep the counters of a process that has ended, and drop its gauges."""
        self._ended.add(self._latest.pop(pid, []), cumulative_only=True)

    def render(self, own: Iterable[Exported] = ()) -> bytes:
        """The sum of all samples and of ``own``, in the text format of Prometheus, version 0.0.4."""
        total = SampleSum()
        for exported in (*self._latest.values(), self._ended.export(), *own):
            total.add(exported)
        return total.render()


class SampleSum:
    """The sum of samples with the same name and labels.

    Families of :data:`_SAME_EVERYWHERE` have the largest value, times of creation the oldest.
    """

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}

    def add(self, exported: Exported, *, cumulative_only: bool = False) -> None:
        """Add the samples of one process; ``cumulative_only`` leaves out gauges."""
        for name, kind, documentation, samples in exported:
            if cumulative_only and kind not in _CUMULATIVE:
                continue
            self._families.setdefault(name, (kind, documentation))
            values = self._values.setdefault(name, {})
            for sample, labels, value in samples:
                key = (sample, tuple(labels.items()))
                values[key] = _combined(name, sample, values.get(key), value)

    def export(self) -> Exported:
        """The sums, in the shape that was added."""
        return [
            [name, *self._families[name], [[sample, dict(labels), v] for (sample, labels), v in values.items()]]
            for name, values in self._values.items()
        ]

    def render(self) -> bytes:
        """The sums in the text format of Prometheus, version 0.0.4."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_ExportedCollector(self.export()))
        return generate_latest(registry)


def _combined(family: str, sample: str, one: float | None, other: float) -> float:
    if one is None:
        return other
    if sample.endswith(_CREATED_SUFFIX):
        return min(one, other)
    return max(one, other) if family in _SAME_EVERYWHERE else one + other


class _ExportedCollector(Collector):
    def __init__(self, exported: Exported) -> None:
        self._exported = exported

    def collect(self) -> Iterable[Metric]:
        for name, kind, documentation, samples in self._exported:
            family = Metric(name, documentation, kind)
            family.samples = [Sample(sample, labels, value) for sample, labels, value in samples]
            yield family
