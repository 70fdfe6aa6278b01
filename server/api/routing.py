"""POST /v1/route, GET /v1/traces/{id}, POST /v1/outcomes, GET /v1/usage: the router, explained and taught."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import orjson
import structlog
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from backends.wire.audio import SpeechRequest
from backends.wire.chat import ChatRequest
from backends.wire.classify import ClassifyRequest
from backends.wire.common import Finite, Identifier, WireModel
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.images import ImageRequest
from backends.wire.rerank import RerankRequest
from catalog.errors import InvalidRequest, NotFound
from catalog.model import Capability
from catalog.types import Json
from routing.accounts.usage_report import DEFAULT_GROUPS, UsageGroup, report, to_csv
from routing.facts import Facts
from routing.plan import Candidate, Plan
from routing.reading import requests as read
from server.answers.whole import json_response, key_of, permitted
from server.edge.auth import caller_of, require_admin
from server.edge.bodies import read_body, read_json
from server.edge.errors import parse
from server.services import runtime_of, services_of

router = APIRouter(tags=["routing"])
MAX_DAYS = 366

_READERS: dict[Capability, tuple[type[WireModel], Any]] = {
    Capability.CHAT: (ChatRequest, read.read_chat),
    Capability.COMPLETION: (CompletionRequest, read.read_completion),
    Capability.EMBED: (EmbeddingRequest, read.read_embedding),
    Capability.RERANK: (RerankRequest, read.read_rerank),
    Capability.CLASSIFY: (ClassifyRequest, read.read_classification),
    Capability.SPEAK: (SpeechRequest, read.read_speech),
    Capability.IMAGE: (ImageRequest, read.read_image),
}


class Report(WireModel):
    """What became of an answer: ``score`` from 0 to 1, or ``accepted``."""

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


@router.post("/v1/route")
async def explain_route(request: Request) -> Response:
    """What would be chosen for this request, and why; nothing is executed.

    The body is that of the endpoint asked about. Which one is told by its fields, or by ``capability``.
    """
    facts = _facts(await read_body(request), request)
    plan = runtime_of(request).dispatcher.explain(permitted(request, facts))
    return json_response(explained(facts, plan))


@router.get("/v1/traces/{trace_id}")
async def get_trace(request: Request, trace_id: str) -> Response:
    """What happened to a request, attempt by attempt. Other keys' requests are not shown."""
    found = await runtime_of(request).traces.find(trace_id)
    caller = caller_of(request)
    if found is None or not (caller.admin or found["request"]["key"] == caller.id):
        raise NotFound(f"There is no trace {trace_id[:64]!r} (any more).")
    return json_response(found)


@router.post("/v1/outcomes")
async def report_outcome(request: Request) -> Response:
    """Tell whether an answer was good. It moves the choice for that task, and for no other."""
    body = await read_json(request, Report)
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


@router.post("/v1/admin/priors")
async def import_priors(request: Request) -> Response:
    """Seed models that were never observed with benchmark scores. Needs an admin key."""
    require_admin(request)
    body = await read_json(request, Priors)
    taken = runtime_of(request).learner.import_priors(body.benchmarks)
    return json_response({"object": "priors", "taken": taken})


@router.get("/v1/usage")
async def get_usage(request: Request) -> Response:
    """What was used and what it cost, by day, model and key; as JSON or CSV. Others' only for administrators."""
    query, caller = request.query_params, caller_of(request)
    today = datetime.now(UTC).date()
    last = _day(query.get("end"), "end") or today
    first = _day(query.get("start"), "start") or last - timedelta(days=30)
    if not 0 <= (last - first).days <= MAX_DAYS:
        raise InvalidRequest(f"'start' is at most {MAX_DAYS} days before 'end'.", param="start")
    by = _groups(query.get("by"))
    rows = await runtime_of(request).spend.usage(first.isoformat(), last.isoformat())
    document = report([row for row in rows if caller.admin or row.key == caller.id], by)
    match query.get("format", "json"):
        case "json":
            return json_response(document)
        case "csv":
            return Response(to_csv(document, by), headers={"content-type": "text/csv; charset=utf-8"})
        case _:
            raise InvalidRequest("'format' is json or csv.", param="format")


def _facts(body: bytes, request: Request) -> Facts:
    fields = parse(WireModel, body).model_extra or {}
    named = fields.pop("capability", None)
    capability = _told(fields) if named is None else _named(named)
    model, reader = _READERS[capability]
    fields.setdefault("model", "auto")
    facts: Facts = reader(parse(model, orjson.dumps(fields)), key=key_of(request), headers=request.headers)
    return facts


def _told(fields: dict[str, Any]) -> Capability:
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
    if isinstance(name, str) and name in set(_READERS):
        return Capability(name)
    raise InvalidRequest(f"'capability' is one of {', '.join(c.value for c in _READERS)}.", param="capability")


def explained(facts: Facts, plan: Plan) -> Json:
    """A plan as ``POST /v1/route`` tells it: the choice, every candidate with its numbers, every exclusion."""
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


def _candidate(candidate: Candidate) -> Json:
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


def _day(text: str | None, name: str) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"'{name}' is a day, as 2026-01-31.", param=name) from None


def _groups(text: str | None) -> tuple[UsageGroup, ...]:
    if text is None:
        return DEFAULT_GROUPS
    try:
        return tuple(dict.fromkeys(UsageGroup(name) for name in text.split(",")))
    except ValueError:
        raise InvalidRequest(f"'by' is a list of {', '.join(UsageGroup)}.", param="by") from None
