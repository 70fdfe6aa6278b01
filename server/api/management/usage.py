"""GET /v1/usage: tokens and cost."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal, NotRequired

from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.common import AS_DAY, Identifier, WireModel
from catalog.errors import InvalidRequest
from routing.accounts.usage_report import DEFAULT_GROUPS, UsageGroup, report, to_csv
from server.answers.whole import json_response
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.peers import state_lag

router = APIRouter(tags=["routing"])


MAX_DAYS = 366
LAG = "x-roundhouse-usage-lag"


class UsageQuery(WireModel):
    """``start`` and ``end`` are days (``2026-01-31``); ``by`` is a list of columns to group by."""

    start: Annotated[date, AS_DAY] | None = None
    end: Annotated[date, AS_DAY] | None = None
    by: Identifier | None = None
    format: Literal["json", "csv"] = "json"


class UsageFigures(TypedDict):
    """Sums over a group. ``cost`` is the known cost in dollars, as text; ``estimated_cost`` was set aside for the
    ``unknown_cost_calls``.
    """

    day: NotRequired[str]
    model: NotRequired[str]
    endpoint: NotRequired[str]
    key: NotRequired[str]
    calls: int
    unknown_cost_calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    units: float
    cost: str
    estimated_cost: str


class UsageReport(TypedDict):
    """Usage and cost by the columns asked for.

    ``lag_seconds``, with the header ``x-roundhouse-usage-lag``: the calls of so many seconds are missing, because
    the state could not be written (a full disk). It is there only then.
    """

    object: Literal["usage.report"]
    currency: Literal["usd"]
    lag_seconds: NotRequired[float]
    data: list[UsageFigures]
    total: UsageFigures


@route(
    router,
    "GET",
    "/v1/usage",
    Contract(query=UsageQuery, exact=True, answers=UsageReport, media={"text/csv": str}),
)
async def get_usage(request: Request, query: UsageQuery) -> Response:
    """Usage and cost by day, model and key, as JSON or CSV. Other keys' usage is for administrators only."""
    caller = caller_of(request)
    last = query.end or datetime.now(UTC).date()
    first = query.start or last - min(timedelta(days=30), last - date.min)
    if first > last:
        end = "'end'" if query.end else "today (UTC)"
        raise InvalidRequest(
            f"'start' is {first}, after {end}, {last}: a report goes from the older day on.", param="start"
        )
    if (last - first).days > MAX_DAYS:
        raise InvalidRequest(f"'start' is at most {MAX_DAYS} days before 'end'.", param="start")
    by = _groups(query.by)
    runtime = runtime_of(request)
    rows = await runtime.spend.usage(first.isoformat(), last.isoformat())
    lag = round(await state_lag(runtime), 3)
    headers = {LAG: f"{lag:g}"} if lag else {}
    document = report([row for row in rows if caller.admin or row.key == caller.id], by)
    if query.format == "csv":
        return Response(to_csv(document, by), headers={"content-type": "text/csv; charset=utf-8", **headers})
    return json_response(document | {"lag_seconds": lag} if lag else document, headers=headers)


def _groups(text: str | None) -> tuple[UsageGroup, ...]:
    if text is None:
        return DEFAULT_GROUPS
    try:
        return tuple(dict.fromkeys(UsageGroup(name) for name in text.split(",")))
    except ValueError:
        raise InvalidRequest(f"'by' is a list of {', '.join(UsageGroup)}.", param="by") from None
