"""Dashboard, alerts and the table of metrics use only metrics and labels that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from backends.workers.pool import DeviceView, PoolSnapshot
from server.observability.collectors import pool_families
from server.observability.metrics import Metrics
from tests.deploy.metrics_table import described

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "roundhouse.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"

SERIES = {name: labels for metric in described() for name, labels in metric.series.items()}
FROM_THE_SCRAPE = frozenset({"job", "instance"})
VARIABLES = {"$__rate_interval": "5m", "$job": ".*", "$model": ".*"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for rule in rules():
        yield rule["alert"], rule["expr"]


QUERIES = list(queries())
each_query = pytest.mark.parametrize(("name", "query"), QUERIES, ids=[name for name, _ in QUERIES])


def parse(query: str) -> promql_parser.Expr:
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return promql_parser.parse(query)


def parts(node: Any) -> Iterator[Any]:
    """An expression and all its subexpressions."""
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, str | int | float):
            yield from parts(child)
    arguments = getattr(node, "args", None)
    for child in arguments or ():
        yield from parts(child)


def selectors(node: Any) -> list[promql_parser.VectorSelector]:
    return [part for part in parts(node) if isinstance(part, promql_parser.VectorSelector)]


@each_query
def test_every_series_of_a_query_exists(name: str, query: str) -> None:
    found = {selector.name for selector in selectors(parse(query))}
    assert found
    assert found <= {*SERIES, "up"}


@each_query
def test_every_label_of_a_query_exists(name: str, query: str) -> None:
    expression = parse(query)
    for selector in selectors(expression):
        known = SERIES.get(str(selector.name), frozenset()) | FROM_THE_SCRAPE
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= known, f"{selector.name} has no {asked - known}"
    for part in parts(expression):
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            for selector in selectors(part):
                known = SERIES.get(str(selector.name), frozenset()) | FROM_THE_SCRAPE
                assert set(part.modifier.labels) <= known, f"{selector.name} cannot be told apart by these labels"


@each_query
def test_counters_are_read_as_rates_and_quantiles_from_buckets(name: str, query: str) -> None:
    counters = {metric.name for metric in described() if metric.type == "counter"}
    for part in parts(parse(query)):
        if isinstance(part, promql_parser.Call) and part.func.name in ("rate", "increase"):
            (selector,) = selectors(part)
            assert str(selector.name) in counters or str(selector.name).endswith(("_bucket", "_count", "_sum"))
    bare = re.sub(r"(rate|increase)\([^()]*\)", "", query)
    assert not [name for name in counters if name in bare]
    assert ("_bucket" in query) == ("histogram_quantile" in query)


def test_a_query_of_an_unknown_metric_or_label_would_be_noticed() -> None:
    assert {selector.name for selector in selectors(parse("sum(rate(roundhouse_nothing[5m])) / up"))} == {
        "roundhouse_nothing",
        "up",
    }
    assert "nothing" not in SERIES["roundhouse_requests_total"]


def series_from_the_start() -> set[str]:
    """The series of a gateway that has answered nothing."""
    metrics = Metrics()
    metrics.registry.register(Idle())
    return {line.split("{")[0].split(" ")[0] for line in metrics.render().decode().splitlines() if line[0] != "#"}


class Idle(Collector):
    """A pool without a worker."""

    def collect(self) -> Iterable[Metric]:
        return pool_families(PoolSnapshot((), (DeviceView("cpu", "CPU", 100, 80, 10),)))


@pytest.mark.parametrize(
    "query", [target["expr"] for panel in panels() for target in panel["targets"]], ids=lambda query: query[:60]
)
def test_a_panel_shows_zero_while_nothing_has_happened_and_nothing_while_no_gateway_is_there(query: str) -> None:
    expression, known = parse(query), series_from_the_start()
    if isinstance(expression, promql_parser.BinaryExpr) and str(expression.op) == "or":
        zero = expression.rhs
        if isinstance(zero, promql_parser.Call):  # it names the empty series
            assert zero.func.name == "label_replace"
            # With on() the zero is left out as soon as there is one real series.
            assert expression.modifier is not None
            assert str(expression.modifier.matching) == "on ()"
            zero = zero.args[0]
        assert isinstance(zero, promql_parser.BinaryExpr)
        assert (str(zero.op), getattr(zero.lhs, "val", None)) == ("*", 0)
        expression = zero.rhs
    assert {str(selector.name) for selector in selectors(expression)} <= known


def test_every_metric_is_drawn() -> None:
    drawn = {
        str(selector.name)
        for panel in panels()
        for target in panel["targets"]
        for selector in selectors(parse(target["expr"]))
    }
    assert [metric.name for metric in described() if not drawn & metric.series.keys()] == []


def test_the_dashboard_is_laid_out_without_overlaps() -> None:
    document = json.loads(DASHBOARD.read_text())
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
    cells = [
        (column, line)
        for panel in document["panels"]
        for column in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for line in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(column for column, _ in cells) < 24


def test_the_variables_of_the_dashboard_are_all_defined() -> None:
    text = DASHBOARD.read_text()
    defined = {variable["name"] for variable in json.loads(text)["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)", text))
    assert used <= defined


def test_every_alert_says_what_and_how_bad() -> None:
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        labels = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert labels <= resulting_labels(parse(rule["expr"])), rule["alert"]


def resulting_labels(expression: Any) -> set[str]:
    """Labels of an alert: the ones that its outermost aggregation on the left keeps."""
    for part in parts(expression):
        if isinstance(part, promql_parser.AggregateExpr):
            return set(part.modifier.labels) - {"le"} if part.modifier else set()
    return set(FROM_THE_SCRAPE)


def test_every_metric_has_a_meaning_and_bounded_labels() -> None:
    for metric in described():
        assert metric.name.startswith("roundhouse_")
        assert metric.meaning
        assert not {"key", "prompt", "path", "address", "user"} & set(metric.labels)
