"""POST /v1/route, GET /v1/traces/{id}, POST /v1/outcomes, GET /v1/usage: explains and teaches the router."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, NotRequired

import orjson
import structlog
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.chat import ChatRequest
from backends.wire.common import Finite, Identifier, WireModel
from catalog.errors import InvalidRequest, ModelNotFound, NotFound
from catalog.model import Capability
from catalog.types import Json
from routing.accounts.usage_report import DEFAULT_GROUPS, UsageGroup, report, to_csv
from routing.facts import Facts
from routing.plan import Candidate, Plan
from server.answers.whole import json_response
from server.edge.bodies import read_body
from server.edge.callers import caller_of, origin_of
from server.edge.endpoints import endpoint
from server.edge.errors import parse
from server.edge.services import runtime_of, services_of
from server.jobs import JOBS, permitted

router = APIRouter(tags=["routing"])
MAX_DAYS = 366


class OutcomeReport(WireModel):
    """A verdict on an answer: ``score`` from 0 to 1, or ``accepted``."""

    trace: Identifier
    score: Annotated[Finite, Field(ge=0, le=1)] | None = None
    accepted: bool | None = None
    note: Annotated[str, Field(max_length=4000)] | None = None


class Priors(WireModel):
    """Benchmark scores in [0, 1], by model and task."""

    benchmarks: Annotated[
        dict[Identifier, Annotated[dict[Identifier, Finite], Field(max_length=64)]],
        Field(min_length=1, max_length=10_000),
    ]


class UsageQuery(WireModel):
    """``start`` and ``end`` are days (``2026-01-31``); ``by`` is a list of columns to group by."""

    start: date | None = None
    end: date | None = None
    by: Identifier | None = None
    format: Literal["json", "csv"] = "json"


class RouteCandidate(TypedDict):
    """A model that could answer, with the numbers that the router weighs."""

    model: str
    local: bool
    score: float
    quality: float
    latency_seconds: float | None
    cost_dollars: float | None
    failure_domain: str
    reason: str


class RouteExclusion(TypedDict):
    model: str
    code: str
    reason: str


class RoutePlan(TypedDict):
    """The choice for a request: ``order`` is the order of attempts, ``request`` the facts it was decided by."""

    object: Literal["route"]
    model: str | None
    strategy: str
    reason: str
    request: Json
    order: list[str]
    candidates: list[RouteCandidate]
    excluded: list[RouteExclusion]


class Trace(TypedDict):
    """A request, attempt by attempt; times are seconds, costs dollars. See :mod:`routing.calling.traces`."""

    id: str
    object: Literal["trace"]
    at: float
    status: Literal["running", "done", "failed"]
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


class PriorsTaken(TypedDict):
    object: Literal["priors"]
    taken: dict[str, bool]


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
    """Usage and cost by the columns asked for."""

    object: Literal["usage.report"]
    currency: Literal["usd"]
    data: list[UsageFigures]
    total: UsageFigures


@endpoint(
    router, "POST", "/v1/route", reads=ChatRequest, own_reading=True, answers=RoutePlan, raises=(ModelNotFound,)
)
async def explain_route(request: Request) -> Response:
    """Explain the choice for a request, without executing it.

    The body is that of the endpoint asked about, recognised by its fields or named by ``capability``.
    """
    facts = _facts(await read_body(request), request)
    runtime = runtime_of(request)
    plan = runtime.dispatcher.explain(permitted(facts, caller_of(request), runtime.catalog))
    return json_response(explained(facts, plan))


@endpoint(router, "GET", "/v1/traces/{trace_id}", answers=Trace)
async def get_trace(request: Request, trace_id: str) -> Response:
    """A request's trace, attempt by attempt. Requests of other keys are not shown."""
    found = await runtime_of(request).traces.find(trace_id)
    caller = caller_of(request)
    if found is None or not (caller.admin or found["request"]["key"] == caller.id):
        raise NotFound(f"There is no trace {trace_id[:64]!r} (any more).")
    return json_response(found)


@endpoint(router, "POST", "/v1/outcomes", reads=OutcomeReport, answers=Learned, raises=(NotFound,))
async def report_outcome(request: Request, body: OutcomeReport) -> Response:
    """Report whether an answer was good. The report moves the choice for that task, and for no other."""
    if (body.score is None) == (body.accepted is None):
        raise InvalidRequest("Give either 'score' (0 to 1) or 'accepted' (true or false).", param="score")
    runtime, caller = runtime_of(request), caller_of(request)
    outcome = runtime.traces.answered(body.trace)
    if outcome is None or not (caller.admin or outcome.facts.key == caller.id):
        raise NotFound(f"There is no answered trace {body.trace[:64]!r} (any more).", param="trace")
    score = body.score if body.score is not None else float(bool(body.accepted))
    lesson = runtime.learner.report(outcome.facts, outcome.model, score, trace=body.trace)
    note = {"note": body.note} if body.note and services_of(request).settings.log.prompts else {}
    structlog.get_logger("server.outcomes").info(
        "outcome reported", of=body.trace, model=lesson.model, score=score, noted=body.note is not None, **note
    )
    return json_response(
        {
            "object": "outcome",
            "trace": body.trace,
            "model": lesson.model,
            "task": lesson.task.value,
            "complexity": lesson.complexity.value,
            "expected_quality": {"before": lesson.before, "after": lesson.after},
            "change_detected": lesson.changed,
        }
    )


@endpoint(router, "POST", "/v1/admin/priors", reads=Priors, answers=PriorsTaken, admin=True)
async def import_priors(request: Request, body: Priors) -> Response:
    """Seed models that were never observed with benchmark scores."""
    taken = runtime_of(request).learner.import_priors(body.benchmarks)
    return json_response({"object": "priors", "taken": taken})


@endpoint(router, "GET", "/v1/usage", query=UsageQuery, answers=UsageReport, media={"text/csv": str})
async def get_usage(request: Request, query: UsageQuery) -> Response:
    """Usage and cost by day, model and key, as JSON or CSV. Other keys' usage is for administrators only."""
    caller = caller_of(request)
    last = query.end or datetime.now(UTC).date()
    first = query.start or last - timedelta(days=30)
    if not 0 <= (last - first).days <= MAX_DAYS:
        raise InvalidRequest(f"'start' is at most {MAX_DAYS} days before 'end'.", param="start")
    by = _groups(query.by)
    rows = await runtime_of(request).spend.usage(first.isoformat(), last.isoformat())
    document = report([row for row in rows if caller.admin or row.key == caller.id], by)
    if query.format == "csv":
        return Response(to_csv(document, by), headers={"content-type": "text/csv; charset=utf-8"})
    return json_response(document)


def _facts(body: bytes, request: Request) -> Facts:
    fields = parse(WireModel, body).model_extra or {}
    named = fields.pop("capability", None)
    capability = _recognised(fields) if named is None else _named(named)
    model, make = JOBS[capability]
    fields.setdefault("model", "auto")
    return make(parse(model, orjson.dumps(fields)), origin_of(request)).facts


def _recognised(fields: dict[str, Any]) -> Capability:
    for name, capability in {
        "messages": Capability.CHAT,
        "documents": Capability.RERANK,
        "labels": Capability.CLASSIFY,
        "voice": Capability.SPEAK,
        "input": Capability.EMBED,
        "prompt": Capability.COMPLETION,
    }.items():
        if name in fields:
            return capability
    raise InvalidRequest("Give the body of the request to explain, for example 'messages'.", param="messages")


def _named(name: Any) -> Capability:
    if isinstance(name, str) and name in set(JOBS):
        return Capability(name)
    raise InvalidRequest(f"'capability' is one of {', '.join(c.value for c in JOBS)}.", param="capability")


def explained(facts: Facts, plan: Plan) -> RoutePlan:
    """A plan in the shape of ``POST /v1/route``."""
    chosen = plan.candidates[0].model.id if plan.candidates else None
    return {
        "object": "route",
        "model": chosen,
        "strategy": plan.strategy.value,
        "reason": plan.reason,
        "request": {
            "capability": facts.capability.value,
            "requested": facts.requested,
            "features": sorted(feature.value for feature in facts.features),
            "task": facts.task.value,
            "complexity": facts.complexity.value,
            "prompt_tokens": facts.prompt_tokens,
            "output_tokens": facts.output_tokens,
            "mode": facts.intent.mode.value,
            "workload": facts.intent.workload.value,
        },
        "order": [candidate.model.id for candidate in plan.candidates],
        "candidates": [_candidate(candidate) for candidate in (plan.considered or plan.candidates)],
        "excluded": [{"model": out.model, "code": out.code, "reason": out.reason} for out in plan.excluded],
    }


def _candidate(candidate: Candidate) -> RouteCandidate:
    return {
        "model": candidate.model.id,
        "local": candidate.model.local,
        "score": candidate.score,
        "quality": candidate.quality,
        "latency_seconds": candidate.latency,
        "cost_dollars": candidate.cost,
        "failure_domain": candidate.failure_domain,
        "reason": candidate.reason,
    }


def _groups(text: str | None) -> tuple[UsageGroup, ...]:
    if text is None:
        return DEFAULT_GROUPS
    try:
        return tuple(dict.fromkeys(UsageGroup(name) for name in text.split(",")))
    except ValueError:
        raise InvalidRequest(f"'by' is a list of {', '.join(UsageGroup)}.", param="by") from None
