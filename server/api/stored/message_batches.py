"""/v1/messages/batches: Anthropic's Message Batches API, by the same work as OpenAI's batches."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import IO, Annotated, Any, Literal, NotRequired

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StringConstraints
from starlette.responses import FileResponse, Response
from typing_extensions import TypedDict

from backends.wire.common import AS_COUNT, WireModel
from catalog.errors import InvalidRequest, NotFound, RateLimited
from catalog.types import Json
from routing.state.records import Record, RecordQuery, new_id
from server.answers.whole import json_response
from server.api.stored.batches import UNENDED, begin, cancelling, check_batches_on
from server.batches.work import INPUT, INTERNAL, RESULTS
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.storage.runner import CANCELLING
from server.storage.storage import Page, listed

router = APIRouter(tags=["messages"])
KIND = "message_batch"
WINDOW = 86_400
JSON_LINES = "application/x-jsonl"


class MessageOfBatch(WireModel):
    """A request of a batch; ``params`` are those of ``POST /v1/messages``, checked when it is answered."""

    custom_id: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    params: dict[str, Any]


class MessageBatchRequest(WireModel):
    """Requests for messages, each with an id of its own."""

    requests: Annotated[list[MessageOfBatch], Field(min_length=1, max_length=100_000)]


class MessageBatchCounts(TypedDict):
    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int


class MessageBatchObject(TypedDict):
    """A batch; times are of RFC 3339. ``notice`` tells of requests that a provider's batch API did not answer."""

    id: str
    type: Literal["message_batch"]
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: MessageBatchCounts
    created_at: str
    expires_at: str
    ended_at: str | None
    cancel_initiated_at: str | None
    archived_at: None
    results_url: str | None
    notice: NotRequired[str]


class MessageBatchList(TypedDict):
    data: list[MessageBatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedMessageBatch(TypedDict):
    id: str
    type: Literal["message_batch_deleted"]


class MessageBatchListQuery(BaseModel):
    """A page of the batches, the newest first."""

    limit: Annotated[int, Field(ge=1, le=1000), AS_COUNT] = 20
    after_id: str | None = Field(default=None, max_length=128)
    before_id: str | None = Field(default=None, max_length=128)


@route(
    router,
    "POST",
    "/v1/messages/batches",
    Contract(reads=MessageBatchRequest, answers=MessageBatchObject, raises=(RateLimited,)),
)
async def create_message_batch(request: Request, body: MessageBatchRequest) -> Response:
    """Answer many requests for messages, later and at the lowest priority."""
    runtime = runtime_of(request)
    storage, files = runtime.storage, runtime.files
    check_batches_on(runtime)
    await files.check_room(caller_of(request).id)
    ids: set[str] = set()
    for position, each in enumerate(body.requests):
        if each.custom_id in ids:
            raise InvalidRequest(
                "An earlier request has the same 'custom_id'.", param=f"requests[{position}].custom_id"
            )
        ids.add(each.custom_id)
    total = len(body.requests)
    if total > storage.settings.batch_lines:
        raise InvalidRequest(
            f"The batch has {total:,} requests; the limit is {storage.settings.batch_lines:,} "
            "(storage.batch_lines). Send several batches.",
            param="requests",
        )
    now = storage.now()
    name = new_id("msgbatch")
    with files.temporary() as lines:
        await asyncio.to_thread(_write, lines, body.requests)
        await files.publish(lines, files.path(f"{name}.{INPUT}"))
    told: Json = {
        "id": name,
        "created_at": int(now),
        "expires_at": int(now) + WINDOW,
        "request_counts": {"total": total, "completed": 0, "failed": 0},
        INTERNAL: {},
    }
    record = storage.new(KIND, name, told, caller_of(request), status="in_progress")
    await begin(runtime, record)
    return json_response(_shown(record, request))


@route(router, "GET", "/v1/messages/batches", Contract(query=MessageBatchListQuery, answers=MessageBatchList))
async def list_message_batches(request: Request, query: MessageBatchListQuery) -> Response:
    """List the caller's batches of messages."""
    rows, more = await runtime_of(request).storage.page(
        RecordQuery(KIND, owner=caller_of(request).id),
        Page(query.limit, after=query.after_id, before=query.before_id),
    )
    page = listed([_shown(row, request) for row in rows], more)
    del page["object"]
    return json_response(page)


@route(router, "GET", "/v1/messages/batches/{batch_id}", Contract(answers=MessageBatchObject))
async def retrieve_message_batch(request: Request, batch_id: str) -> Response:
    """Tell how far a batch of messages is."""
    return json_response(_shown(await _found(request, batch_id), request))


@route(router, "POST", "/v1/messages/batches/{batch_id}/cancel", Contract(answers=MessageBatchObject))
async def cancel_message_batch(request: Request, batch_id: str) -> Response:
    """Stop a batch of messages; what is answered by then is in its results."""
    return json_response(_shown(await cancelling(request, KIND, batch_id), request))


@route(router, "DELETE", "/v1/messages/batches/{batch_id}", Contract(answers=DeletedMessageBatch))
async def delete_message_batch(request: Request, batch_id: str) -> Response:
    """Delete a batch of messages that has ended, and its results."""
    runtime = runtime_of(request)
    record = await _found(request, batch_id)
    if not _ended(record):
        raise InvalidRequest("The batch has not ended. Cancel it first.")
    await runtime.storage.records.delete(KIND, record.id, record.owner)
    runtime.files.path(f"{record.id}.{RESULTS}").unlink(missing_ok=True)
    return json_response({"id": record.id, "type": "message_batch_deleted"})


@route(router, "GET", "/v1/messages/batches/{batch_id}/results", Contract(media={JSON_LINES: str}))
async def message_batch_results(request: Request, batch_id: str) -> Response:
    """Return the results of a batch that has ended, a JSON object per line and in any order."""
    record = await _found(request, batch_id)
    path = runtime_of(request).files.path(f"{record.id}.{RESULTS}")
    if not _ended(record):
        raise NotFound("The batch has no results yet: it has not ended.")
    if not path.is_file():
        raise NotFound("The results of the batch are gone.")
    return FileResponse(path, media_type=JSON_LINES)


async def _found(request: Request, batch_id: str) -> Record:
    return await runtime_of(request).storage.found(KIND, batch_id, caller_of(request))


def _ended(record: Record) -> bool:
    return record.status not in (*UNENDED, CANCELLING)


def _shown(record: Record, request: Request) -> Json:
    body, ended = record.body, _ended(record)
    counts, internal = body["request_counts"], body[INTERNAL]
    unfinished = internal.get("unfinished", 0)
    expired = internal.get("ending") == "expired"
    status = "ended" if ended else "canceling" if record.status == CANCELLING else "in_progress"
    ends = (body.get(f"{how}_at") for how in ("completed", "cancelled", "expired", "failed"))
    ended_at = next((at for at in ends if at is not None), None)
    failed = unfinished if internal.get("ending") == "failed" else 0
    return {
        "id": record.id,
        "type": "message_batch",
        "processing_status": status,
        # As Anthropic does, the requests are tallied once the batch has ended.
        "request_counts": {
            "processing": 0 if ended else counts["total"],
            "succeeded": counts["completed"] if ended else 0,
            "errored": counts["failed"] + failed if ended else 0,
            "canceled": unfinished if ended and internal.get("ending") == "cancelled" else 0,
            "expired": unfinished if ended and expired else 0,
        },
        "created_at": _time(body["created_at"]),
        "expires_at": _time(body["expires_at"]),
        "ended_at": _time(ended_at) if ended else None,
        "cancel_initiated_at": _time(body.get("cancelling_at")),
        "archived_at": None,
        "results_url": f"{request.base_url}v1/messages/batches/{record.id}/results" if ended else None,
        **({"notice": body["notice"]} if body.get("notice") else {}),
    }


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _write(file: IO[bytes], requests: list[MessageOfBatch]) -> None:
    for each in requests:
        file.write(orjson.dumps({"custom_id": each.custom_id, "params": each.params}) + b"\n")
