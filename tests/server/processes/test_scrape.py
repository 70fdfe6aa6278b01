"""The samples of several processes in one scrape."""

from __future__ import annotations

import orjson
from prometheus_client.parser import text_string_to_metric_families

from server.edge.admission import InFlight
from server.observability.metrics import Metrics
from server.processes.scrape import Exported, ProcessSamples, export
from server.settings import LimitSettings


def process(*, draining: bool = False) -> tuple[Metrics, InFlight]:
    in_flight = InFlight(LimitSettings())
    if draining:
        in_flight.begin_drain()
    return Metrics(lambda: in_flight.count, lambda: in_flight.draining), in_flight


def crossed(metrics: Metrics) -> Exported:
    """The samples as they arrive over the control socket."""
    samples: Exported = orjson.loads(orjson.dumps(export(metrics.registry)))
    return samples


def value(text: bytes, sample: str, **labels: str) -> float:
    found = [
        each.value
        for family in text_string_to_metric_families(text.decode())
        for each in family.samples
        if each.name == sample and each.labels.items() >= labels.items()
    ]
    return sum(found)


def test_counters_and_histograms_of_processes_add_up() -> None:
    samples = ProcessSamples()
    for number, requests in ((1, 3), (2, 4)):
        metrics, _ = process()
        for _ in range(requests):
            metrics.request("/v1/chat/completions", "POST", 200, 0.02)
        samples.report(number, crossed(metrics))
    text = samples.render()
    assert value(text, "roundhouse_requests_total", status="200") == 7
    assert value(text, "roundhouse_request_seconds_count") == 7
    assert value(text, "roundhouse_request_seconds_bucket", le="0.025") == 7
    assert value(text, "roundhouse_request_seconds_bucket", le="0.01") == 0


def test_a_newer_report_replaces_the_older_one() -> None:
    samples = ProcessSamples()
    metrics, _ = process()
    for _ in range(3):
        metrics.error("queue_full")
        samples.report(1, crossed(metrics))
    assert value(samples.render(), "roundhouse_errors_total", code="queue_full") == 3


def test_the_end_of_a_process_keeps_its_counters_and_drops_its_gauges() -> None:
    samples = ProcessSamples()
    metrics, _ = process(draining=True)
    metrics.error("queue_full")
    samples.report(1, crossed(metrics))
    assert value(samples.render(), "roundhouse_draining") == 1
    samples.ended(1)
    samples.ended(2)
    other, _ = process()
    other.error("queue_full")
    samples.report(3, crossed(other))
    assert value(samples.render(), "roundhouse_errors_total", code="queue_full") == 2
    assert value(samples.render(), "roundhouse_draining") == 0


def test_draining_is_the_largest_value_and_a_creation_time_the_oldest() -> None:
    samples = ProcessSamples()
    times = []
    for number in (1, 2):
        metrics, _ = process(draining=True)
        metrics.error("queue_full")
        samples.report(number, crossed(metrics))
        times.append(value(samples.render(), "roundhouse_errors_created"))
    assert value(samples.render(), "roundhouse_draining") == 1
    assert times[0] == times[1] > 1e9


def test_the_scrape_of_one_process_equals_its_own_metrics() -> None:
    metrics, _ = process()
    metrics.request("/v1/models", "GET", 200, 0.001)
    assert sorted(ProcessSamples().render((export(metrics.registry),)).splitlines()) == sorted(
        metrics.render().splitlines()
    )
