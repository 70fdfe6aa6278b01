"""The health report: models, providers, capabilities, and the router's choice for four sample requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from typing_extensions import TypedDict

from backends.wire.chat import ChatRequest
from catalog.model import ENDPOINTS, Capability, Endpoint, Model
from catalog.types import Json
from routing.facts import Facts, Task
from routing.reading.requests import read_chat
from routing.settings import RoutingSettings
from routing.upstreams.circuit import CircuitState
from routing.upstreams.provider_keys import KeyStatistics
from server.runtime import Runtime
from server.settings import KEY_SETTINGS, Settings

_ONE_PIXEL_PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5E"
    "rkJggg=="
)
_LOOK_UP: Json = {
    "name": "look_up",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SCENARIOS: dict[str, Json] = {
    "interactive text": {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
    "background code": {
        "messages": [{"role": "user", "content": "def add(a, b):\n    return a - b\n\nFix this function."}],
        "routing": {"workload": "background", "task": "code"},
    },
    "interactive tools": {
        "messages": [{"role": "user", "content": "How warm is it in Paris?"}],
        "tools": [{"type": "function", "function": _LOOK_UP}],
    },
    "interactive vision": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is in this picture?"},
                    {"type": "image_url", "image_url": {"url": _ONE_PIXEL_PNG}},
                ],
            }
        ]
    },
}
"""The bodies of the sample requests, by name."""

NO_FAULTS: Mapping[str, str] = MappingProxyType({})
_NOT_SHOWN = {"model", "endpoint", *KEY_SETTINGS}


class StateReport(TypedDict):
    """``lag_seconds``: for how long writes have failed (a full disk, no server); 0 while they succeed."""

    lag_seconds: float


class ClusterReport(TypedDict):
    """The cluster that runs the workers: ``fault`` says why its manager cannot be reached."""

    address: str
    nodes: int
    workers: int
    fault: str | None


class Report(TypedDict):
    """The state of the server; ``scenarios`` has the router's choice for each sample request.

    ``settings`` are those in force, without rows and secrets.
    """

    object: Literal["report"]
    models: Json
    providers: list[Json]
    defaults: dict[str, str | None]
    pins: dict[str, str]
    coverage: dict[str, list[str]]
    scenarios: list[Json]
    priors: list[Json]
    prior_files: Json
    speech: Json
    state: StateReport
    cluster: ClusterReport | None
    settings: Json


async def faults_of_endpoints(runtime: Runtime) -> dict[str, str]:
    """Faults that keep endpoints from being called, by id: credentials that a cloud does not give, for example."""
    ask, servers = runtime.fault, runtime.catalog.servers
    if ask is None:
        return {}
    told = await asyncio.gather(*map(ask, servers))
    return {server.id: fault for server, fault in zip(servers, told, strict=True) if fault is not None}


def report(runtime: Runtime, settings: Settings, *, lag: float, faults: Mapping[str, str] = NO_FAULTS) -> Report:
    """Build the report. It contains no secret and no prompt, and executes no request.

    ``faults`` are those of :func:`faults_of_endpoints`.
    """
    rows = tuple(runtime.catalog)
    blocks = {row.id: block for row in rows if (block := runtime.unavailable(row)) is not None}
    usable = tuple(row for row in rows if row.id not in blocks)
    return {
        "object": "report",
        "models": {
            "known": len(rows),
            "usable": [_model(row, runtime) for row in usable],
            "not_usable": [{"model": model, "reason": block.reason} for model, block in blocks.items()],
        },
        "providers": [_provider(server, rows, runtime, faults) for server in runtime.catalog.servers],
        "defaults": {
            capability.value: _choice(runtime, Facts(capability=capability))["model"]
            for capability in sorted(ENDPOINTS)
        },
        "pins": dict(runtime.insight.pins.current) if runtime.insight else {},
        "coverage": {
            capability.value: [row.id for row in usable if capability in row.capabilities]
            for capability in Capability
        },
        "scenarios": [{"scenario": name, **_scenario(runtime, body)} for name, body in SCENARIOS.items()],
        "priors": [_prior(row, runtime) for row in usable],
        "prior_files": _prior_files(rows, runtime),
        "speech": _speech(runtime, usable, settings.routing),
        "state": {"lag_seconds": round(lag, 3)},
        "cluster": _cluster(runtime, settings),
        "settings": settings.model_dump(mode="json", exclude=_NOT_SHOWN),
    }


def _cluster(runtime: Runtime, settings: Settings) -> ClusterReport | None:
    address = settings.workers.cluster
    if address is None:
        return None
    snapshot = runtime.pool.snapshot()
    fault = None if snapshot.nodes else "its manager has not been reached; the log says why"
    return {"address": address, "nodes": len(snapshot.nodes), "workers": len(snapshot.workers), "fault": fault}


def _model(row: Model, runtime: Runtime) -> Json:
    views = {view.model: view.state.value for view in runtime.pool.snapshot().models}
    return {
        "model": row.id,
        "runs": row.engine or row.endpoint_name,
        "local": row.local,
        "state": views.get(row.id, "stopped") if row.local else None,
        "capabilities": sorted(capability.value for capability in row.capabilities),
        "context_window": row.limits.context_window,
        "origin": row.origin,
    }


def _provider(server: Endpoint, rows: tuple[Model, ...], runtime: Runtime, faults: Mapping[str, str]) -> Json:
    own = [row for row in rows if row.endpoint_name == server.id and not row.local]
    insight = runtime.insight
    circuits = {} if insight is None else {row.id: insight.circuit(row) for row in own}
    keys = () if insight is None else [key for key in insight.key_statistics() if key.endpoint == server.id]
    blocks = [runtime.unavailable(row) for row in own]
    reasons = [block.reason for block in blocks if block is not None]
    fault = faults.get(server.id)
    return {
        "provider": server.id,
        "protocol": server.protocol,
        "wire": server.wire,
        "private": server.private,
        "discovers": server.discover,
        "models": len(own),
        "needs_key": bool(server.key_env or server.key_keyring),
        "keys": [_key(key) for key in keys],
        "usable": None in blocks and fault is None,
        "reason": fault or (None if None in blocks else min(reasons, default=None)),
        "breakers": {name: state.value for name, state in circuits.items() if state is not CircuitState.CLOSED},
    }


def _key(key: KeyStatistics) -> Json:
    return {
        "position": key.position,
        "used": key.used,
        "ok": key.ok,
        "failed": key.failed,
        "rate_limited": key.rate_limited,
        "rejected": key.rejected,
        "resting_seconds": key.resting,
        "out": key.out,
        "health": key.health,
    }


def _choice(runtime: Runtime, facts: Facts) -> Json:
    plan = runtime.dispatcher.explain(facts)
    chosen = plan.candidates[0] if plan.candidates else None
    return {
        "model": None if chosen is None else chosen.model.id,
        "local": None if chosen is None else chosen.model.local,
        "strategy": plan.strategy.value,
        "reason": plan.reason,
        "then": [candidate.model.id for candidate in plan.candidates[1:4]],
        "excluded": dict(Counter(exclusion.code for exclusion in plan.excluded)),
    }


def _scenario(runtime: Runtime, body: Json) -> Json:
    facts = read_chat(ChatRequest.model_validate({"model": "auto", **body}))
    return {
        "task": facts.task.value,
        "complexity": facts.complexity.value,
        "workload": facts.intent.workload.value,
        **_choice(runtime, facts),
    }


def _prior(row: Model, runtime: Runtime) -> Json:
    """The prior of a row, its source, and the amount of observations since: reports, and signs in its answers,
    each worth a part of one.
    """
    shown: Json = {"model": row.id, "benchmarks": row.benchmarks, "published": row.published}
    place = None if runtime.insight is None else runtime.insight.estimator.index.rows.get(row.id)
    if runtime.insight is None or place is None:
        return shown
    estimator = runtime.insight.estimator
    prior = estimator.prior(place)
    seen = {task.value: float(estimator.observations(task)[place]) for task in Task}
    observed = {task: round(count, 1) for task, count in seen.items() if count}
    hints = {task.value: float(estimator.hints(task)[place]) for task in Task}
    return {
        **shown,
        "prior": {task.value: round(float(value), 3) for task, value in zip(Task, prior.mean, strict=True)},
        "strength": prior.strength,
        "source": prior.source.value,
        "reason": prior.reason,
        "observations": observed,
        "signs": {task: round(weight, 2) for task, weight in hints.items() if weight},
    }


def _prior_files(rows: tuple[Model, ...], runtime: Runtime) -> Json:
    """The files of priors in force, and the names in them that no model has."""
    if runtime.insight is None:
        return {"files": [], "unknown_models": []}
    files = runtime.insight.estimator.files
    return {"files": list(files.paths), "unknown_models": files.unmatched(rows)}


def _speech(runtime: Runtime, usable: tuple[Model, ...], settings: RoutingSettings) -> Json:
    policy = settings.speech
    return {
        "prefer_local": policy.prefer_local,
        "allow_remote": policy.allow_remote,
        "preferred": list(policy.preferred),
        "speak": _choice(runtime, Facts(capability=Capability.SPEAK, task=Task.SPEECH)),
        "transcribe": _choice(runtime, Facts(capability=Capability.TRANSCRIBE, task=Task.TRANSCRIBE)),
        "voices": {row.id: list(row.voices) for row in usable if Capability.SPEAK in row.capabilities},
    }
