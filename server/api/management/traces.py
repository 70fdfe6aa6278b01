"""GET /v1/traces: the requests of late."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.common import AS_COUNT, Identifier, WireModel
from routing.calling.traces import TraceQuery
from server.answers.whole import json_response
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.peers import recent_traces

router = APIRouter(tags=["routing"])
MOST_TRACES = 200


class TraceListQuery(WireModel):
    """``before`` is Unix time: give the ``at`` of the last trace for the next page.

    ``model`` is the id of the model that answered, or the name that was asked for.
    """

    limit: Annotated[int, Field(ge=1, le=MOST_TRACES), AS_COUNT] = 50
    before: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=False)] | None = None
    status: Literal["running", "done", "failed", "cancelled"] | None = None
    model: Identifier | None = None


class TraceSummary(TypedDict):
    """A request in a line; times are seconds, ``cost`` dollars or null where a part of it is unknown.

    Sums are over all attempts; ``first_chunk`` is of the one that answered.
    """

    id: str
    object: Literal["trace.summary"]
    at: float
    status: Literal["running", "done", "failed", "cancelled"]
    capability: str
    requested: str
    task: str
    key: str
    answered_by: str | None
    attempts: int
    first_chunk: float | None
    duration: float | None
    input_tokens: int
    output_tokens: int
    cost: float | None
    error: str | None


class TraceList(TypedDict):
    """Traces, newest first. ``has_more``: there may be older ones."""

    object: Literal["list"]
    data: list[TraceSummary]
    has_more: bool


@route(router, "GET", "/v1/traces", Contract(query=TraceListQuery, exact=True, answers=TraceList))
async def list_traces(request: Request, query: TraceListQuery) -> Response:
    """List the recent requests of the caller's key, or of all keys for an administrator."""
    caller = caller_of(request)
    wanted = TraceQuery(
        limit=query.limit,
        before=query.before,
        key=None if caller.admin else caller.id,
        status=query.status,
        model=query.model,
    )
    found = await recent_traces(runtime_of(request), wanted)
    return json_response({"object": "list", "data": found, "has_more": len(found) == query.limit})
