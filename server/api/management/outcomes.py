"""GET /v1/traces/{id} and POST /v1/outcomes: a request, attempt by attempt, and verdicts on its answer."""

from __future__ import annotations

from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.common import Finite, Identifier, OwnBody
from catalog.errors import InvalidRequest, NotFound
from catalog.types import Json
from server.answers.whole import json_response
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of, services_of
from server.peers import Verdict, find_trace, learn

router = APIRouter(tags=["routing"])


class OutcomeReport(OwnBody):
    """A verdict on an answer: ``score`` from 0 to 1, or ``accepted``."""

    trace: Identifier
    score: Annotated[Finite, Field(ge=0, le=1)] | None = None
    accepted: bool | None = None
    note: Annotated[str, Field(max_length=4000)] | None = None


class Trace(TypedDict):
    """A request, attempt by attempt; times are seconds, costs dollars. See :mod:`routing.calling.traces`."""

    id: str
    object: Literal["trace"]
    at: float
    status: Literal["running", "done", "failed", "cancelled"]
    request: Json
    plan: Json
    attempts: list[Json]
    answered_by: str | None
    error: Json | None


class Learned(TypedDict):
    """The effect of a report: the expected quality of the model for that task, before and after."""

    object: Literal["outcome"]
    trace: str
    model: str
    task: str
    complexity: str
    expected_quality: dict[str, float]
    change_detected: bool


@route(router, "GET", "/v1/traces/{trace_id}", Contract(answers=Trace, exact=True))
async def get_trace(request: Request, trace_id: str) -> Response:
    """A request's trace, attempt by attempt. Requests of other keys are not shown."""
    found = await find_trace(runtime_of(request), trace_id)
    caller = caller_of(request)
    if found is None or not (caller.admin or found["request"]["key"] == caller.id):
        raise NotFound(f"There is no trace {trace_id[:64]!r} (any more).")
    shown = [out for out in found["plan"]["excluded"] if caller.allows(out["model"], runtime_of(request).catalog)]
    return json_response({**found, "plan": {**found["plan"], "excluded": shown}})


@route(router, "POST", "/v1/outcomes", Contract(reads=OutcomeReport, answers=Learned, raises=(NotFound,)))
async def report_outcome(request: Request, body: OutcomeReport) -> Response:
    """Report whether an answer was good. The report moves the choice for that task, and for no other."""
    if (body.score is None) == (body.accepted is None):
        raise InvalidRequest("Give either 'score' (0 to 1) or 'accepted' (true or false).", param="score")
    runtime, caller = runtime_of(request), caller_of(request)
    score = body.score if body.score is not None else float(bool(body.accepted))
    learned = await learn(runtime, Verdict(trace=body.trace, score=score, key=caller.id, admin=caller.admin))
    if learned is None:
        raise NotFound(f"There is no answered trace {body.trace[:64]!r} (any more).", param="trace")
    note = {"note": body.note} if body.note and services_of(request).settings.log.prompts else {}
    structlog.get_logger("server.outcomes").info(
        "outcome reported", of=body.trace, model=learned["model"], score=score, noted=body.note is not None, **note
    )
    return json_response({"object": "outcome", "trace": body.trace, **learned})
