"""/v1/batches: OpenAI's Batch API. A batch belongs to the key that made it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NotRequired

from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.common import AS_COUNT, WireModel
from catalog.errors import InvalidRequest, RateLimited, Unavailable
from catalog.types import Json
from routing.state.records import Record, RecordQuery, new_id
from server.answers.whole import json_response
from server.api.stored.files import ExpiresAfter
from server.batches.work import INPUT, INTERNAL
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.runtime import Runtime
from server.storage.files import FILE
from server.storage.runner import CANCELLING
from server.storage.storage import Page, listed

router = APIRouter(tags=["batches"])
KIND = "batch"
Endpoint = Literal[
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/rerank",
    "/v1/messages",
]
"""The endpoints that the lines of a batch may ask: those of :data:`server.api.doors.DOORS`."""
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16),
]
UNENDED = ("validating", "in_progress", "finalizing")
_UNITS = {"m": 60, "h": 3600, "d": 86_400}


def _is_window(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"[1-9]\d{0,3}[mhd]", value, re.ASCII) is None:
        raise ValueError("It must be a number of minutes (m), hours (h) or days (d), such as '24h'")
    return value


class BatchRequest(WireModel):
    """A batch of the lines of a file. OpenAI's window is ``24h``; others are whole minutes, hours or days."""

    input_file_id: Annotated[str, StringConstraints(max_length=128)]
    endpoint: Endpoint
    completion_window: Annotated[
        str, StringConstraints(pattern=r"^[1-9]\d{0,3}[mhd]$"), BeforeValidator(_is_window)
    ] = "24h"
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchProblem(TypedDict):
    """An error of the batch, or of the line of its input."""

    code: str
    message: str
    line: int | None
    param: str | None


class BatchProblems(TypedDict):
    object: Literal["list"]
    data: list[BatchProblem]


class BatchCounts(TypedDict):
    total: int
    completed: int
    failed: int


class BatchObject(TypedDict):
    """A batch; times are Unix seconds. ``notice`` tells of lines that a provider's batch API did not answer."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchProblems | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    usage: dict[str, Any] | None
    metadata: dict[str, str] | None
    notice: NotRequired[str]


class BatchList(TypedDict):
    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchListQuery(BaseModel):
    """A page of the batches, the newest first; ``after`` is the id of the batch before it."""

    limit: Annotated[int, Field(ge=1, le=100), AS_COUNT] = 20
    after: str | None = Field(default=None, max_length=128)


@route(
    router,
    "POST",
    "/v1/batches",
    Contract(reads=BatchRequest, answers=BatchObject, raises=(RateLimited,)),
)
async def create_batch(request: Request, body: BatchRequest) -> Response:
    """Answer every line of a file, later and at the lowest priority."""
    runtime, caller = runtime_of(request), caller_of(request)
    storage = runtime.storage
    check_batches_on(runtime)
    await runtime.files.check_room(caller.id)
    file = await storage.found(FILE, body.input_file_id, caller, param="input_file_id")
    if file.body["purpose"] != "batch":
        raise InvalidRequest(
            f"The file was uploaded with the purpose '{file.body['purpose']}'; upload it with 'batch'.",
            param="input_file_id",
        )
    now = storage.now()
    window = int(body.completion_window[:-1]) * _UNITS[body.completion_window[-1]]
    if window > storage.settings.keep:
        raise InvalidRequest(
            "The window is longer than a batch is kept (storage.keep).", param="completion_window"
        )
    name = new_id("batch")
    told: Json = {
        "id": name,
        "object": "batch",
        "endpoint": body.endpoint,
        "model": None,
        "errors": None,
        "input_file_id": file.id,
        "completion_window": body.completion_window,
        "output_file_id": None,
        "error_file_id": None,
        "created_at": int(now),
        "in_progress_at": None,
        "expires_at": int(now) + window,
        **dict.fromkeys(("finalizing_at", "completed_at", "failed_at", "expired_at")),
        **dict.fromkeys(("cancelling_at", "cancelled_at")),
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": None,
        "metadata": body.metadata,
        INTERNAL: {"output_seconds": body.output_expires_after and body.output_expires_after.seconds},
    }
    await runtime.files.link(file, runtime.files.path(f"{name}.{INPUT}"))
    record = storage.new(KIND, name, told, caller, status="validating")
    await begin(runtime, record)
    return json_response(shown(record))


@route(router, "GET", "/v1/batches", Contract(query=BatchListQuery, answers=BatchList))
async def list_batches(request: Request, query: BatchListQuery) -> Response:
    """List the caller's batches."""
    rows, more = await runtime_of(request).storage.page(
        RecordQuery(KIND, owner=caller_of(request).id), Page(query.limit, after=query.after)
    )
    return json_response(listed([shown(row) for row in rows], more))


@route(router, "GET", "/v1/batches/{batch_id}", Contract(answers=BatchObject))
async def retrieve_batch(request: Request, batch_id: str) -> Response:
    """Tell how far a batch is."""
    record = await runtime_of(request).storage.found(KIND, batch_id, caller_of(request), param="batch_id")
    return json_response(shown(record))


@route(router, "POST", "/v1/batches/{batch_id}/cancel", Contract(answers=BatchObject))
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """Stop a batch; what is answered by then is in its output file."""
    return json_response(shown(await cancelling(request, KIND, batch_id)))


async def begin(runtime: Runtime, record: Record) -> None:
    """Store a new batch whose input is there, and begin to work on it. Raises StorageFull, and Unavailable."""
    try:
        await runtime.storage.keep(record)
    except BaseException:
        runtime.files.path(f"{record.id}.{INPUT}").unlink(missing_ok=True)
        raise
    if runtime.runner is not None:
        runtime.runner.wake()


async def cancelling(request: Request, kind: str, name: str) -> Record:
    """The caller's batch, which is being cancelled. Raises NotFound, and InvalidRequest for one that has ended."""
    runtime = runtime_of(request)
    now = int(runtime.storage.now())

    def cancel(record: Record) -> Record:
        if record.status not in (*UNENDED, CANCELLING):
            raise InvalidRequest(f"The batch has ended: it is {record.status}.")
        return record if record.status == CANCELLING else record.changed(status=CANCELLING, cancelling_at=now)

    record = await runtime.storage.change(kind, name, caller_of(request), cancel)
    if runtime.runner is not None:
        runtime.runner.wake()
    return record


def check_batches_on(runtime: Runtime) -> None:
    """Raises Unavailable where the settings switch batches off."""
    if runtime.storage.settings.batches == 0:
        raise Unavailable("This server works on no batches: storage.batches is 0.")


def shown(record: Record) -> Json:
    """A batch as its caller sees it."""
    body = {name: value for name, value in record.body.items() if name != INTERNAL}
    if body.get("notice") is None:
        body.pop("notice", None)
    return {**body, "status": record.status}
