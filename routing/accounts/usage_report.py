"""The report of ``GET /v1/usage``: usage and cost by day, model, endpoint and key."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from routing.state.protocol import NANO, USAGE_SUMS, UsageRow


class UsageGroup(StrEnum):
    """A field by which a report can be grouped."""

    DAY = "day"
    MODEL = "model"
    ENDPOINT = "endpoint"
    KEY = "key"


COLUMNS = (
    "day",
    "model",
    "endpoint",
    "key",
    "calls",
    "unknown_cost_calls",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "units",
    "cost",
    "estimated_cost",
)
"""The columns in order; of ``day`` to ``key``, a report has those it is grouped by."""

DEFAULT_GROUPS = (UsageGroup.DAY, UsageGroup.MODEL, UsageGroup.KEY)


def report(rows: Iterable[UsageRow], by: tuple[UsageGroup, ...] = DEFAULT_GROUPS) -> dict[str, Any]:
    """``{"object": "usage.report", "currency": "usd", "data": [...], "total": {...}}``.

    ``cost`` is the sum of the known costs, in dollars with nine decimals, as text so that it is exact.
    ``unknown_cost_calls`` counts the calls whose cost is unknown, and ``estimated_cost`` is the sum that was
    reserved for them. The spending caps count the sum of both.
    """
    groups: dict[tuple[str, ...], list[float]] = {}
    total: list[float] = [0] * len(USAGE_SUMS)
    for row in rows:
        identity = tuple(str(getattr(row, group.value)) for group in by)
        sums = groups.setdefault(identity, [0] * len(USAGE_SUMS))
        for index, name in enumerate(USAGE_SUMS):
            sums[index] += getattr(row, name)
            total[index] += getattr(row, name)
    return {
        "object": "usage.report",
        "currency": "usd",
        "data": [
            dict(zip((group.value for group in by), identity, strict=True)) | _figures(sums)
            for identity, sums in sorted(groups.items())
        ],
        "total": _figures(total),
    }


def to_csv(document: Mapping[str, Any], by: tuple[UsageGroup, ...] = DEFAULT_GROUPS) -> str:
    """A report as CSV (RFC 4180) with a header line; cells that a spreadsheet would evaluate are quoted."""
    group_names = [group.value for group in by]
    names = [name for name in COLUMNS if name in group_names or name not in set(UsageGroup)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(names)
    for row in document["data"]:
        writer.writerow([_cell(row[name]) for name in names])
    return out.getvalue()


def _figures(sums: list[float]) -> dict[str, Any]:
    figures: dict[str, Any] = dict(zip(COLUMNS[4:], sums, strict=True))
    figures["cost"] = _dollars(figures["cost"])
    figures["estimated_cost"] = _dollars(figures["estimated_cost"])
    return figures


def _dollars(amount: float) -> str:
    dollars, rest = divmod(abs(int(amount)), NANO)
    return f"{'-' if amount < 0 else ''}{dollars}.{rest:09d}"


def _cell(value: Any) -> Any:
    # Names of models and keys may be hostile: a spreadsheet must not run '=cmd' as a formula.
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
