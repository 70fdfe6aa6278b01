"""GET /api/tags, /api/ps and /api/version, POST /api/show: the models of this server in Ollama's shapes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.workers.pool import WorkerState
from catalog.errors import ModelNotFound, NotPermitted
from catalog.model import Model
from routing.facts import Mode, alias_of
from routing.plan import NOT_SET_UP
from server.answers.whole import json_response
from server.api.management.models import auto_name
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of, services_of
from server.wires.ollama.answers import OllamaRunning, OllamaShown, OllamaTags, OllamaVersion
from server.wires.ollama.requests import OllamaModelRequest

router = APIRouter(tags=["ollama"])
VERSION = "0.13.3"
"""The version of Ollama whose API this is. Clients refuse a server whose version is older than they need."""


@route(router, "GET", "/api/version", Contract(answers=OllamaVersion))
async def ollama_version(request: Request) -> Response:
    """The version of Ollama's API that this server has, and its own."""
    return json_response({"version": VERSION, "roundhouse": request.app.version})


@route(router, "GET", "/api/tags", Contract(answers=OllamaTags))
async def ollama_tags(request: Request) -> Response:
    """List the models that can answer this caller, local and remote, and the names by which the router chooses."""
    from server.wires.ollama import models as shapes

    rows, modified = list(_rows(request)), _modified(request)
    modes = [shapes.listed_mode(auto_name(mode), rows, modified) for mode in Mode]
    return json_response({"models": [*(shapes.listed(row, modified) for row in rows), *modes]})


@route(
    router,
    "POST",
    "/api/show",
    Contract(reads=OllamaModelRequest, answers=OllamaShown, any_type=True, raises=(ModelNotFound, NotPermitted)),
)
async def ollama_show(request: Request, body: OllamaModelRequest) -> Response:
    """Describe one model: its size, its context length and what it can."""
    from server.wires.ollama import models as shapes

    runtime, modified = runtime_of(request), _modified(request)
    asked = runtime.standing(body.model)
    name = alias_of(asked)
    if name in map(auto_name, Mode):
        return json_response(shapes.shown_mode(name, _rows(request), modified))
    row = runtime.catalog.resolve(asked)
    if not caller_of(request).allows(row.id, runtime.catalog):
        raise NotPermitted.of_model(row.id)
    return json_response(shapes.shown(row, modified))


@route(router, "GET", "/api/ps", Contract(answers=OllamaRunning))
async def ollama_ps(request: Request) -> Response:
    """List the models that are loaded on this machine."""
    from server.wires.ollama import models as shapes

    runtime, clock, wall = runtime_of(request), services_of(request).clock(), datetime.now(UTC)
    views = {view.model: view for view in runtime.pool.snapshot().models if view.state is WorkerState.READY}
    rows = [row for row in _rows(request) if row.id in views]
    return json_response({"models": [shapes.loaded(row, views[row.id], clock=clock, wall=wall) for row in rows]})


def _rows(request: Request) -> Iterator[Model]:
    """The caller's models that chat, complete or embed, without those that this server's set-up lacks something
    for.
    """
    from server.wires.ollama import models as shapes

    runtime, caller = runtime_of(request), caller_of(request)
    for row in runtime.catalog:
        if row.capabilities & shapes.SERVED and caller.allows(row.id, runtime.catalog):
            block = runtime.unavailable(row)
            if block is None or block.code not in NOT_SET_UP:
                yield row


def _modified(request: Request) -> datetime:
    return datetime.fromtimestamp(services_of(request).created, UTC)
