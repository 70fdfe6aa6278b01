"""Generates the table of all metrics from their definitions.

``python -m tests.docs`` writes it to ``docs/reference/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import Metric

from server.observability.collectors import PoolCollector, RoutingCollector
from server.observability.metrics import Metrics
from server.processes.scrape import register_process_metrics
from tests.server.fakes import FakePool

HEAD = """# Metrics

`GET /metrics` returns the metrics in Prometheus' text format. It requires an admin key, or a key that reads
nothing else: one of `ROUNDHOUSE_METRICS_KEYS`, or one made by `roundhouse keys create prometheus --metrics`
(`deploy/prometheus/prometheus.yaml`). With several gateway processes one scrape covers all of them.
Histograms have `_bucket`, `_sum` and `_count`. Label values are bounded: routes are templates, models are
rows of the catalogue, codes are those of `catalog/errors/`. No key, prompt or address is a label.
`deploy/grafana/roundhouse.json` is a dashboard of these metrics, `deploy/prometheus/alerts.yaml` has alerts.
`make reference` writes this page.

| metric | type | labels | meaning |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Described:
    """One metric in Prometheus' terms."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def series(self) -> Mapping[str, frozenset[str]]:
        """The names that a query may use, with their labels."""
        labels = frozenset(self.labels)
        if self.type != "histogram":
            return {self.name: labels}
        return {
            f"{self.name}_bucket": labels | {"le"},
            f"{self.name}_sum": labels,
            f"{self.name}_count": labels,
        }


def described() -> list[Described]:
    """Every metric of the app, by name."""
    return sorted(_described(), key=lambda metric: metric.name)


def _described() -> Iterator[Described]:
    metrics = Metrics()
    metrics.watch(FakePool())
    metrics.watch_routing(dict, tuple, tuple, tuple)
    register_process_metrics(metrics.registry, lambda: 0)
    collectors: list[Any] = list(metrics.registry._collector_to_names)
    for collector in collectors:
        families: list[Metric] = list(collector.describe())
        for family in families:
            # A family built at the scrape has its label names; otherwise its collector has them.
            at_scrape = isinstance(collector, PoolCollector | RoutingCollector)
            labels = getattr(family if at_scrape else collector, "_labelnames", ())
            suffix = "_total" if family.type == "counter" else ""
            yield Described(family.name + suffix, family.type, tuple(labels), family.documentation)


def table() -> str:
    """The whole document."""
    rows = (
        f"| `{metric.name}` | {metric.type} | {', '.join(f'`{label}`' for label in metric.labels)} "
        f"| {metric.meaning} |\n"
        for metric in described()
    )
    return HEAD + "".join(rows)
