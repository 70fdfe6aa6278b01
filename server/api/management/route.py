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
from catalog.types import Json
from routing.calling.dispatcher import own_exclusions
from routing.choosing.filters import context_needed
from routing.facts import Facts
from routing.plan import Candidate, Plan
from server.answers.whole import json_response
from server.api.management.routed import Read, read
from server.edge.bodies import read_body
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.jobs import permitted

router = APIRouter(tags=["routing"])


class RouteCandidate(TypedDict):
    """A model that could answer, with the numbers that the router weighs.

    ``wire``: the language that a chat goes out in; null for a model of this machine.
    ``fits``: the prompt and the answer fit its context window; null where the window is unknown.
    ``reasoning_effort``: asked of the model, if the caller names none; null leaves it to the model.
    """

    model: str
    local: bool
    score: float
    quality: float
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
    return json_response(explained(facts, runtime.dispatcher.explain(facts), runtime.catalog, asked))


def explained(facts: Facts, plan: Plan, catalog: Catalog, asked: Read) -> RoutePlan:
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
            "prompt_tokens": facts.prompt_tokens,
            "output_tokens": facts.output_tokens,
            "mode": facts.intent.mode.value,
            "workload": facts.intent.workload.value,
        },
        "order": [candidate.model.id for candidate in plan.candidates],
        "candidates": [_candidate(each, needed, catalog) for each in (plan.considered or plan.candidates)],
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


def _candidate(candidate: Candidate, needed: int, catalog: Catalog) -> RouteCandidate:
    return {
        "model": candidate.model.id,
        "local": candidate.model.local,
        "score": candidate.score,
        "quality": candidate.quality,
        "latency_seconds": candidate.latency,
        "cost_dollars": candidate.cost,
        "failure_domain": candidate.failure_domain,
        "wire": wire_of(candidate.model, catalog),
        "reason": candidate.reason,
        "context_window": candidate.model.limits.context_window,
        "fits": None if candidate.model.limits.context_window is None else _fits(candidate, needed),
        "reasoning_effort": candidate.effort,
    }
