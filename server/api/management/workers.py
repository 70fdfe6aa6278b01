"""GET /v1/admin/workers and the logs of workers, for administrators."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import PlainTextResponse, Response
from typing_extensions import TypedDict

from backends.wire.common import AS_COUNT, WireModel
from backends.workers.pool import WorkerView
from catalog.types import Json
from server.answers.whole import json_response
from server.api.management.models import local_row
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of, services_of

router = APIRouter(tags=["models"])


MAX_LOG_LINES = 10_000


class LogQuery(WireModel):
    """``lines`` counts from the end of the log."""

    lines: Annotated[int, Field(ge=1, le=MAX_LOG_LINES), AS_COUNT] = 200


class WorkerCard(TypedDict):
    """One worker process; memory is bytes, times are seconds, ``context`` is in tokens per request.

    ``options`` are the engine's, those of the last load included. ``node`` and ``replica`` are those of a cluster.
    """

    model: str
    engine: str
    device: str | None
    state: str
    pid: int | None
    memory: int | None
    slots: int | None
    busy: int
    queued: int
    restarts: int
    up_seconds: float | None
    idle_seconds: float | None
    expires_in: float | None
    load_seconds: float | None
    error: str | None
    context: int | None
    options: Json
    node: str | None
    replica: str | None


class WorkerDevice(TypedDict):
    """A device that workers run on; sizes are bytes."""

    id: str
    name: str
    total: int
    budget: int
    used: int


class ClusterNode(TypedDict):
    """A machine of a cluster; amounts of resources by name, memory in bytes."""

    id: str
    name: str
    address: str
    total: dict[str, float]
    used: dict[str, float]
    labels: dict[str, str]


class WorkerList(TypedDict):
    """The workers and where they run; ``nodes`` is empty without a cluster."""

    object: Literal["list"]
    workers: list[WorkerCard]
    devices: list[WorkerDevice]
    nodes: list[ClusterNode]


@route(router, "GET", "/v1/admin/workers", Contract(answers=WorkerList, admin=True))
async def list_workers(request: Request) -> Response:
    """List the worker processes and their devices; bytes and seconds."""
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
            "nodes": [
                {
                    "id": node.id,
                    "name": node.name,
                    "address": node.address,
                    "total": dict(node.total),
                    "used": dict(node.used),
                    "labels": dict(node.labels),
                }
                for node in snapshot.nodes
            ],
        }
    )


@route(
    router,
    "GET",
    "/v1/admin/workers/{model_id:path}/log",
    Contract(query=LogQuery, media={"text/plain": str}, admin=True),
)
async def worker_log(request: Request, model_id: str, query: LogQuery) -> Response:
    """The end of a worker's log, also after its death."""
    runtime = runtime_of(request)
    row = local_row(runtime, model_id)
    return PlainTextResponse(await runtime.pool.log(row.id, lines=query.lines))


def _worker(view: WorkerView, now: float) -> WorkerCard:
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
        "context": view.context,
        "options": dict(view.options),
        "node": view.node or None,
        "replica": view.replica or None,
    }
