"""GET /v1/models: what there is; and for administrators, what is loaded."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import PlainTextResponse, Response

from backends.wire.common import Finite, WireModel
from backends.workers.pool import WorkerView
from catalog.errors import CapabilityMismatch, InvalidRequest, NotPermitted
from catalog.model import Capability, Model, UpstreamSource
from catalog.types import Json
from routing.facts import Mode
from server.answers.whole import json_response
from server.edge.auth import caller_of, require_admin
from server.edge.bodies import read_json
from server.edge.disconnect import Guard
from server.services import Runtime, runtime_of, services_of

router = APIRouter(tags=["models"])
MAX_LOG_LINES = 10_000


class LoadRequest(WireModel):
    """``keep_alive`` is how many seconds the model stays loaded without use."""

    keep_alive: Annotated[Finite, Field(ge=0, le=31_536_000)] | None = None


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """Every model, and the names under which the router chooses."""
    services, runtime = services_of(request), runtime_of(request)
    caller = caller_of(request)
    views = {view.model: view for view in runtime.pool.snapshot().workers}
    rows = [row for row in runtime.catalog if caller.allows(row.id)]
    data = [_router_row(mode, services.created) for mode in Mode]
    data += [describe(row, views.get(row.id), runtime, services.created) for row in rows]
    return json_response({"object": "list", "data": data})


@router.get("/v1/models/{model_id:path}")
async def get_model(request: Request, model_id: str) -> Response:
    """One model, by id, name or alias."""
    services, runtime = services_of(request), runtime_of(request)
    for mode in Mode:
        if model_id.lower() == auto_name(mode):
            return json_response(_router_row(mode, services.created))
    row = runtime.catalog.resolve(model_id)
    if not caller_of(request).allows(row.id):
        raise NotPermitted(f"This key may not use the model '{row.id}'.")
    views = {view.model: view for view in runtime.pool.snapshot().workers}
    return json_response(describe(row, views.get(row.id), runtime, services.created))


@router.post("/v1/models/{model_id:path}/load")
async def load_model(request: Request, model_id: str) -> Response:
    """Load a local model now; answers when it is ready. Needs an admin key."""
    require_admin(request)
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    body = await read_json(request, LoadRequest) if has_body else LoadRequest()
    runtime = runtime_of(request)
    row = _local(runtime, model_id)
    async with Guard(request, services_of(request).in_flight):
        view = await runtime.pool.load(row, keep_alive=body.keep_alive)
    return json_response(describe(row, view, runtime, services_of(request).created))


@router.post("/v1/models/{model_id:path}/unload")
async def unload_model(request: Request, model_id: str) -> Response:
    """Let a model's requests end, then stop its worker. Needs an admin key."""
    require_admin(request)
    runtime = runtime_of(request)
    row = _local(runtime, model_id)
    was_loaded = await runtime.pool.unload(row.id)
    return json_response({"id": row.id, "object": "model", "unloaded": was_loaded})


@router.get("/v1/admin/workers")
async def list_workers(request: Request) -> Response:
    """The worker processes and the devices they are on; bytes and seconds. Needs an admin key."""
    require_admin(request)
    snapshot = runtime_of(request).pool.snapshot()
    now = services_of(request).clock()
    return json_response(
        {
            "object": "list",
            "workers": [_worker(view, now) for view in snapshot.workers],
            "devices": [
                {
                    "id": device.id,
                    "name": device.name,
                    "total": device.total,
                    "budget": device.budget,
                    "used": device.used,
                }
                for device in snapshot.devices
            ],
        }
    )


@router.get("/v1/admin/workers/{model_id:path}/log")
async def worker_log(request: Request, model_id: str, lines: str = "200") -> Response:
    """The end of a worker's log, also after its death. Needs an admin key."""
    require_admin(request)
    if not lines.isascii() or not lines.isdigit() or not 1 <= int(lines[:9]) <= MAX_LOG_LINES:
        raise InvalidRequest(f"'lines' is a number from 1 to {MAX_LOG_LINES}.", param="lines")
    runtime = runtime_of(request)
    row = _local(runtime, model_id)
    return PlainTextResponse(await runtime.pool.log(row.id, lines=int(lines)))


def auto_name(mode: Mode) -> str:
    """``auto`` or ``auto:fast``: how a caller asks the router to choose."""
    return "auto" if mode is Mode.AUTO else f"auto:{mode.value}"


def describe(row: Model, view: WorkerView | None, runtime: Runtime, created: int) -> Json:
    """A model in OpenAI's shape, and beside it what a caller of this server wants to know.

    ``downloaded``, ``key_configured`` and ``available`` are three facts: the files are here, a key for the
    endpoint is set, and a request could be answered now (``unavailable_reason`` says why not).
    """
    local = row.local
    loaded = view is not None and view.state.value in ("ready", "draining")
    reason = runtime.unavailable(row)
    return {
        "id": row.id,
        "object": "model",
        "created": created,
        "owned_by": row.provider,
        "name": row.name,
        "aliases": list(row.aliases),
        "family": row.family,
        "license": row.license,
        "capabilities": sorted(capability.value for capability in row.capabilities),
        "context_window": row.limits.context_window,
        "max_output_tokens": row.limits.max_output_tokens,
        "max_input_tokens": row.limits.max_input_tokens,
        "dimensions": row.limits.dimensions,
        "quantization": row.size.quantization,
        "parameter_count": row.size.parameters,
        "voices": list(row.voices),
        "languages": list(row.languages),
        "tags": sorted(row.tags),
        "local": local,
        "engine": row.engine,
        "endpoint": row.source.endpoint if isinstance(row.source, UpstreamSource) else None,
        "device": view.device if view is not None else row.device,
        "state": view.state.value if view is not None else ("stopped" if local else None),
        "loaded": loaded,
        "downloaded": runtime.downloaded(row) if local else None,
        "key_configured": None if local else runtime.has_key(row),
        "available": reason is None,
        "unavailable_reason": reason,
        "price": row.price.model_dump(),
        "parameters": None if row.parameters is None else sorted(row.parameters),
        "origin": row.origin,
    }


def _router_row(mode: Mode, created: int) -> Json:
    return {
        "id": auto_name(mode),
        "object": "model",
        "created": created,
        "owned_by": "roundhouse",
        "router": True,
        "mode": mode.value,
    }


def _local(runtime: Runtime, model_id: str) -> Model:
    row = runtime.catalog.resolve(model_id)
    if not row.local:
        raise CapabilityMismatch(
            f"'{row.id}' is served by another server; only local models have a worker here.", param="model"
        )
    return row


def _worker(view: WorkerView, now: float) -> Json:
    return {
        "model": view.model,
        "engine": view.engine,
        "device": view.device,
        "state": view.state.value,
        "pid": view.pid,
        "memory": view.memory,
        "slots": view.slots,
        "busy": view.busy,
        "queued": view.queued,
        "restarts": view.restarts,
        "up_seconds": None if view.started_at is None else max(0.0, now - view.started_at),
        "idle_seconds": None if view.last_used is None or view.busy else max(0.0, now - view.last_used),
        "expires_in": None if view.expires_at is None else max(0.0, view.expires_at - now),
        "load_seconds": view.load_seconds,
        "error": view.error,
    }


def speakers(runtime: Runtime) -> list[Model]:
    """The models that speak."""
    return [row for row in runtime.catalog.models() if Capability.SPEAK in row.capabilities]
