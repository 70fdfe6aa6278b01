"""POST /v1/route: explains the choice for a request."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.registry import wire_of
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from catalog.catalog import Catalog
from catalog.errors import InvalidRequest, ModelNotFound
from catalog.model import Capability
from catalog.types import Json
from routing.calling.dispatcher import own_exclusions
from routing.choosing.filters import context_needed
from routing.facts import Facts
from routing.plan import Candidate, Plan
from server.answers.whole import json_response
from server.edge.bodies import read_body
from server.edge.callers import caller_of, origin_of, with_stand_in
from server.edge.contracts import Contract, route
from server.edge.json_body import parse
from server.edge.services import runtime_of
from server.jobs import JOBS, permitted

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

    ``warnings`` say what is likely to go wrong with the first of them.
    """

    object: Literal["route"]
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

    The body is that of the endpoint asked about, recognised by its fields or named by ``capability``.
    """
    runtime = runtime_of(request)
    facts = permitted(_facts(await read_body(request), request), caller_of(request), runtime.catalog)
    return json_response(explained(facts, runtime.dispatcher.explain(facts), runtime.catalog))


def _facts(body: bytes, request: Request) -> Facts:
    fields = parse(WireModel, body).model_extra or {}
    named = fields.pop("capability", None)
    capability = _recognised(fields) if named is None else _named(named)
    model, make = JOBS[capability]
    fields.setdefault("model", "auto")
    asked = with_stand_in(request, parse(model, orjson.dumps(fields)))
    return make(asked, origin_of(request)).facts


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


def explained(facts: Facts, plan: Plan, catalog: Catalog) -> RoutePlan:
    """A plan in the shape of ``POST /v1/route``, without the models that the caller's key may not use."""
    chosen = plan.candidates[0].model.id if plan.candidates else None
    needed = context_needed(facts)
    return {
        "object": "route",
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
            _too_small(candidate, needed) for candidate in plan.candidates[:1] if not _fits(candidate, needed)
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
