"""The report of ``GET /v1/usage``: what was used and what it cost, by day, model and key."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from routing.state.protocol import NANO, USAGE_SUMS, UsageRow


class Group(StrEnum):
    """What a report has a row for each of."""

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
"""The columns, in order; a report has those of ``day`` to ``key`` that it is grouped by."""

EVERYTHING = (Group.DAY, Group.MODEL, Group.KEY)


def report(rows: Iterable[UsageRow], by: tuple[Group, ...] = EVERYTHING) -> dict[str, Any]:
    """``{"object": "usage.report", "currency": "usd", "data": [...], "total": {...}}``.

    ``cost`` is the sum of the costs that are known, in dollars with nine decimals, as text so that no sum
    of it drifts. ``unknown_cost_calls`` counts the calls whose cost is unknown, and ``estimated_cost`` is
    what was set aside for them: what the caps counted is the sum of both.
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


def to_csv(document: Mapping[str, Any], by: tuple[Group, ...] = EVERYTHING) -> str:
    """A report as CSV (RFC 4180), one header line; a cell that a spreadsheet would run is quoted as text."""
    grouped = [group.value for group in by]
    names = [name for name in COLUMNS if name in grouped or name not in set(Group)]
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
    # A model's or key's name may come from elsewhere; '=cmd' must stay a name when a spreadsheet opens it.
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
