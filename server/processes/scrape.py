"""One scrape of several gateway processes: what each measured, added up.

Every process keeps a registry of its own. The parent asks each for its samples when Prometheus comes (and now
and then, so that a process which is killed takes little with it), adds what processes that have ended had
counted, so that no counter ever falls, and what it knows itself: workers, devices, and the processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

Exported = list[Any]
"""JSON: ``[[family, type, help, [[sample, {label: value}, number], ...]], ...]``."""

_SMALLEST = "_created"
_LARGEST = frozenset(
    {
        "roundhouse_draining",
        "roundhouse_breaker_state",
        "roundhouse_provider_keys",
        "roundhouse_spend_cap_dollars",
        "roundhouse_spend_used_dollars",
    }
)
_COUNTED = frozenset({"counter", "histogram", "summary"})


def export(registry: CollectorRegistry) -> Exported:
    """What a registry holds now."""
    return [
        [family.name, family.type, family.documentation, [[s.name, s.labels, s.value] for s in family.samples]]
        for family in registry.collect()
    ]


class Sum:
    """Samples added up.

    Where all processes speak of the same thing it is the largest value, and the oldest time of creation.
    """

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}

    def add(self, exported: Exported, *, counted_only: bool = False) -> None:
        """Take one process's samples in; ``counted_only``: not the gauges, as the process is no more."""
        for name, kind, documentation, samples in exported:
            if counted_only and kind not in _COUNTED:
                continue
            self._families.setdefault(name, (kind, documentation))
            values = self._values.setdefault(name, {})
            for sample, labels, value in samples:
                key = (sample, tuple(labels.items()))
                values[key] = _together(name, sample, values.get(key), value)

    def export(self) -> Exported:
        """The sums, in the same shape."""
        return [
            [name, *self._families[name], [[sample, dict(labels), v] for (sample, labels), v in values.items()]]
            for name, values in self._values.items()
        ]

    def render(self) -> bytes:
        """The text format of Prometheus, version 0.0.4."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families(self.export()))
        return generate_latest(registry)


def _together(family: str, sample: str, one: float | None, other: float) -> float:
    if one is None:
        return other
    if sample.endswith(_SMALLEST):
        return min(one, other)
    return max(one, other) if family in _LARGEST else one + other


class _Families(Collector):
    def __init__(self, exported: Exported) -> None:
        self._exported = exported

    def collect(self) -> Iterable[Metric]:
        for name, kind, documentation, samples in self._exported:
            family = Metric(name, documentation, kind)
            family.samples = [Sample(sample, labels, value) for sample, labels, value in samples]
            yield family


class Book:
    """What each process last reported, and what those that have ended had counted."""

    def __init__(self) -> None:
        self._last: dict[int, Exported] = {}
        self._ended = Sum()

    def report(self, process: int, exported: Exported) -> None:
        """Take down a process's samples; ``process`` is its id."""
        self._last[process] = exported

    def ended(self, process: int) -> None:
        """A process is no more: what it had counted stays, what it measured of the moment goes."""
        self._ended.add(self._last.pop(process, []), counted_only=True)

    def total(self, own: Iterable[Exported] = ()) -> bytes:
        """All of it and ``own`` samples beside, as text."""
        everything = Sum()
        for exported in (*self._last.values(), self._ended.export(), *own):
            everything.add(exported)
        return everything.render()
