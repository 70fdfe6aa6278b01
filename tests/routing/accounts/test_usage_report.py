"""The usage report: exact sums by day, model and key, and CSV that is only data."""

from __future__ import annotations

import csv
import io

from routing.accounts.usage_report import UsageGroup, report, to_csv
from routing.state.protocol import NANO, UsageRow

ROWS = [
    UsageRow("2027-01-01", "a", "openai", "alice", calls=2, input=10, output=5, cost=100_000_000),
    UsageRow("2027-01-01", "a", "azure", "alice", calls=1, input=1, cost=200_000_000),
    UsageRow("2027-01-01", "=b()", "local", "bob", calls=1, unknown=1, estimated=5),
    UsageRow("2027-01-02", "a", "openai", "bob", calls=1, cost=123 * NANO + 1),
]


def test_rows_are_summed_exactly_by_day_model_and_key() -> None:
    document = report(ROWS)
    assert [(row["day"], row["model"], row["key"], row["calls"], row["cost"]) for row in document["data"]] == [
        ("2027-01-01", "=b()", "bob", 1, "0.000000000"),
        ("2027-01-01", "a", "alice", 3, "0.300000000"),
        ("2027-01-02", "a", "bob", 1, "123.000000001"),
    ]
    assert document["total"]["cost"] == "123.300000001"


def test_an_unknown_cost_is_reported_as_unknown_and_not_as_zero() -> None:
    [row] = [row for row in report(ROWS)["data"] if row["model"] == "=b()"]
    assert (row["unknown_cost_calls"], row["cost"], row["estimated_cost"]) == (1, "0.000000000", "0.000000005")


def test_any_grouping_has_the_same_total() -> None:
    for by in [(UsageGroup.KEY,), (UsageGroup.ENDPOINT, UsageGroup.MODEL), (), tuple(UsageGroup)]:
        assert report(ROWS, by)["total"] == report(ROWS)["total"]
    assert [row["key"] for row in report(ROWS, (UsageGroup.KEY,))["data"]] == ["alice", "bob"]


def test_csv_has_a_header_and_no_cell_that_a_spreadsheet_would_evaluate() -> None:
    by = (UsageGroup.MODEL, UsageGroup.KEY)
    table = list(csv.DictReader(io.StringIO(to_csv(report(ROWS, by), by))))
    assert list(table[0])[:3] == ["model", "key", "calls"]
    assert [row["model"] for row in table] == ["'=b()", "a", "a"]
    assert table[1]["cost"] == "0.300000000"


def test_without_usage_the_report_is_empty() -> None:
    document = report([])
    assert document["data"] == []
    assert document["total"]["cost"] == "0.000000000"
    assert to_csv(document).count("\r\n") == 1
