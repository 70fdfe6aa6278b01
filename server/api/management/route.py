"""POST /v1/route: explains the choice for a request."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.registry import wire_of
from backends.wire.chat import ChatRequest
from catalog.catalog import Catalog
from catalog.errors import ModelNotFound
from catalog.model import Capability
from catalog.types import Json
from routing.beliefs.estimator import Estimator
from routing.calling.dispatcher import own_exclusions
from routing.choosing.filters import context_needed
from routing.facts import Facts
from routing.plan import Candidate, Plan
from routing.reading.intent import is_auto
from routing.reading.kind import SURE
from server.answers.whole import json_response
from server.api.management.routed import Read, read
from server.edge.bodies import read_body
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.jobs import permitted

router = APIRouter(tags=["routing"])


class RoutePrior(TypedDict):
    """The quality of a model at the task before any observation, worth ``strength`` of them.

    ``source`` is ``benchmarks``, ``same_model``, ``succession``, ``price``, ``size``, ``guess``, ``file`` or
    ``imported``; ``reason`` says it in words.
    """

    quality: float
    strength: float
    source: str
    reason: str


class RouteEvidence(TypedDict):
    """Observations of a model at the task: reports of answers, and signs in answers, worth so many reports.

    Old ones count less. Quality is what prior and evidence give together, with some of the model's other tasks.
    """

    reports: float
    signs: float


class RouteCandidate(TypedDict):
    """A model that could answer, with the numbers that the router weighs.

    ``quality`` is expected: ``prior`` is what was believed first, ``evidence`` what has moved it.
    ``wire``: the language that a chat goes out in; null for a model of this machine.
    ``fits``: the prompt and the answer fit its context window; null where the window is unknown.
    ``reasoning_effort``: asked of the model, if the caller names none; null leaves it to the model.
    """

    model: str
    local: bool
    score: float
    quality: float
    prior: RoutePrior | None
    evidence: RouteEvidence | None
    latency_seconds: float | None
    cost_dollars: float | None
    failure_domain: str
    wire: str | None
    reason: str
    context_window: int | None
    fits: bool | None
    reasoning_effort: str | None


class RouteExclusion(TypedDict):
    model: str
    code: str
    reason: str


class RoutePlan(TypedDict):
    """The choice for a request: ``order`` is the order of attempts, ``request`` the facts it was decided by.

    ``endpoint`` is the one whose body was read. ``warnings`` say what is likely to go wrong with the first of the
    candidates, and what of the body may have been meant otherwise.
    """

    object: Literal["route"]
    endpoint: str
    model: str | None
    strategy: str
    reason: str
    request: Json
    order: list[str]
    candidates: list[RouteCandidate]
    excluded: list[RouteExclusion]
    warnings: list[str]


@route(
    router,
    "POST",
    "/v1/route",
    Contract(reads=ChatRequest, own_reading=True, answers=RoutePlan, raises=(ModelNotFound,)),
)
async def explain_route(request: Request) -> Response:
    """Explain the choice for a request, without executing it.

    The body is that of the endpoint asked about, named by ``endpoint``, or recognised by its fields or
    ``capability``.
    """
    runtime = runtime_of(request)
    asked = await read(await read_body(request), request)
    facts = permitted(asked.facts, caller_of(request), runtime.catalog)
    plan = runtime.dispatcher.explain(facts)
    estimator = None if runtime.insight is None else runtime.insight.estimator
    return json_response(explained(facts, plan, runtime.catalog, asked, estimator))


def explained(facts: Facts, plan: Plan, catalog: Catalog, asked: Read, estimator: Estimator | None) -> RoutePlan:
    """A plan in the shape of ``POST /v1/route``, without the models that the caller's key may not use."""
    chosen = plan.candidates[0].model.id if plan.candidates else None
    needed = context_needed(facts)
    return {
        "object": "route",
        "endpoint": asked.endpoint,
        "model": chosen,
        "strategy": plan.strategy.value,
        "reason": plan.reason,
        "request": {
            "capability": facts.capability.value,
            "requested": facts.requested,
            "stands_for": facts.stands_for,
            "features": sorted(feature.value for feature in facts.features),
            "task": facts.task.value,
            "complexity": facts.complexity.value,
            "confidence": asdict(facts.confidence),
            "reading": reading_of(facts),
            "prompt_tokens": facts.prompt_tokens,
            "output_tokens": facts.output_tokens,
            "mode": facts.intent.mode.value,
            "workload": facts.intent.workload.value,
        },
        "order": [candidate.model.id for candidate in plan.candidates],
        "candidates": [
            _candidate(each, needed, catalog, facts, estimator) for each in (plan.considered or plan.candidates)
        ],
        "excluded": [
            {"model": out.model, "code": out.code, "reason": out.reason} for out in own_exclusions(plan, facts)
        ],
        "warnings": [
            *asked.remarks,
            *(_too_small(candidate, needed) for candidate in plan.candidates[:1] if not _fits(candidate, needed)),
        ],
    }


def _fits(candidate: Candidate, needed: int) -> bool:
    window = candidate.model.limits.context_window
    return window is None or needed <= window


def _too_small(candidate: Candidate, needed: int) -> str:
    model = candidate.model
    return (
        f"The request will not fit: it needs about {needed} tokens, prompt and answer together, and the context "
        f"window of '{model.id}' holds {model.limits.context_window}."
    )


def reading_of(facts: Facts) -> str:
    """Why a request counts as its task and its complexity, in words."""
    task, complexity = facts.task.value, facts.complexity.value
    if facts.intent.task is not None:
        told = f"the caller names the task {task}"
    elif facts.capability is not Capability.CHAT:
        return f"the request is for {facts.capability.value}: its words are not read for a task"
    elif not is_auto(facts.requested):
        return "a model is named: the words are not read, as no task decides the choice"
    elif facts.confidence.task == 1.0:
        told = f"its parts (tools, pictures, a schema or labels) make it {task}"
    elif facts.confidence.task < SURE:
        told = f"its words say no task for sure ({facts.confidence.task:.0%}), so it counts as {task}"
    else:
        told = f"its words read as {task} ({facts.confidence.task:.0%} sure)"
    sure = facts.confidence.complexity
    return f"{told}, {complexity} ({sure:.0%} sure)" if sure >= SURE else f"{told}, {complexity} by its size"


def prior_of(estimator: Estimator, model: str, facts: Facts) -> RoutePrior | None:
    """The prior of a model at a request's task; ``None`` for a model that the estimator does not know."""
    row = estimator.index.rows.get(model)
    if row is None:
        return None
    prior = estimator.prior(row)
    quality = round(estimator.prior_quality(row, facts.task), 3)
    return {
        "quality": quality,
        "strength": prior.strength,
        "source": prior.source.value,
        "reason": prior.reason,
    }


def evidence_of(estimator: Estimator, model: str, facts: Facts) -> RouteEvidence | None:
    """The observations of a model at a request's task; ``None`` as in :func:`prior_of`."""
    row = estimator.index.rows.get(model)
    if row is None:
        return None
    reports, signs = estimator.observations(facts.task).item(row), estimator.hints(facts.task).item(row)
    return {"reports": round(reports, 1), "signs": round(signs, 2)}


def _candidate(
    candidate: Candidate, needed: int, catalog: Catalog, facts: Facts, estimator: Estimator | None
) -> RouteCandidate:
    name = candidate.model.id
    return {
        "model": candidate.model.id,
        "local": candidate.model.local,
        "score": candidate.score,
        "quality": candidate.quality,
        "prior": None if estimator is None else prior_of(estimator, name, facts),
        "evidence": None if estimator is None else evidence_of(estimator, name, facts),
        "latency_seconds": candidate.latency,
        "cost_dollars": candidate.cost,
        "failure_domain": candidate.failure_domain,
        "wire": wire_of(candidate.model, catalog),
        "reason": candidate.reason,
        "context_window": candidate.model.limits.context_window,
        "fits": None if candidate.model.limits.context_window is None else _fits(candidate, needed),
        "reasoning_effort": candidate.effort,
    }
