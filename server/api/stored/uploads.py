"""/v1/uploads: OpenAI's Uploads API, which makes a file of parts. An upload belongs to the key that began it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field, StringConstraints
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.common import WireModel
from catalog.errors import InvalidRequest, RateLimited
from catalog.types import Json
from routing.state.records import Record, RecordQuery, every, new_id
from server.answers.whole import json_response
from server.api.stored.files import (
    FORM_OVERHEAD,
    ExpiresAfter,
    FileName,
    FileObject,
    Purpose,
    expiry,
    file_name,
    file_of,
)
from server.edge.bodies import read_form
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.storage.files import PART, Files, too_large

router = APIRouter(tags=["uploads"])
UPLOAD = "upload"
LIFE = 3600
"""Seconds after which an upload expires that is not completed, as OpenAI has it."""
PART_BYTES = 64 << 20
MAX_PARTS = 10_000


class UploadRequest(WireModel):
    """A file of ``bytes`` bytes to be uploaded in parts."""

    bytes: Annotated[int, Field(ge=1)]
    filename: FileName
    mime_type: Annotated[str, StringConstraints(max_length=256)]
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class PartForm(WireModel):
    """A part of an upload, at most 64 MB."""

    data: bytes


class CompleteRequest(WireModel):
    """The parts of a file in their order, and perhaps the MD5 of the whole in hexadecimal digits."""

    part_ids: Annotated[
        list[Annotated[str, StringConstraints(max_length=128)]], Field(min_length=1, max_length=MAX_PARTS)
    ]
    md5: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{32}$")] | None = None


class UploadObject(TypedDict):
    """An upload; ``file`` is there once it is completed."""

    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None


class PartObject(TypedDict):
    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str


@route(router, "POST", "/v1/uploads", Contract(reads=UploadRequest, answers=UploadObject))
async def create_upload(request: Request, body: UploadRequest) -> Response:
    """Begin an upload; it expires after an hour."""
    storage = runtime_of(request).storage
    if body.bytes > storage.settings.file_bytes:
        raise too_large(storage.settings.file_bytes)
    now = storage.now()
    told: Json = {
        "id": new_id("upload"),
        "object": "upload",
        "bytes": body.bytes,
        "created_at": int(now),
        "expires_at": int(now) + LIFE,
        "filename": file_name(body.filename),
        "purpose": body.purpose,
        "file": None,
        "seconds": body.expires_after and body.expires_after.seconds,
    }
    # Kept longer than it lives, so that its status can be told.
    record = storage.new(
        UPLOAD, told["id"], told, caller_of(request), status="pending", expires_at=now + 24 * LIFE
    )
    await storage.keep(record)
    return json_response(_shown(record, now))


@route(
    router,
    "POST",
    "/v1/uploads/{upload_id}/parts",
    Contract(reads=PartForm, form=True, own_reading=True, answers=PartObject, raises=(RateLimited,)),
)
async def create_upload_part(request: Request, upload_id: str) -> Response:
    """Add a part to an upload; parts may come at the same time and in any order."""
    runtime = runtime_of(request)
    files, storage, caller = runtime.files, runtime.storage, caller_of(request)
    upload = await _pending(request, upload_id)
    async with read_form(request, limit=PART_BYTES + FORM_OVERHEAD, folder=files.folder) as form:
        part = file_of(form, "data")
        size = part.size or 0
        if size > PART_BYTES:
            raise InvalidRequest(f"A part has at most {PART_BYTES:,} bytes. Send smaller parts.", param="data")
        sent = [each.body["bytes"] for each in await _parts(files, upload)]
        if sum(sent) + size > upload.body["bytes"] or len(sent) >= MAX_PARTS:
            raise InvalidRequest(
                f"The parts have more than the {upload.body['bytes']:,} bytes that the upload was begun for, "
                f"or are more than {MAX_PARTS:,}.",
                param="data",
            )
        body: Json = {
            "id": new_id("part"),
            "object": "upload.part",
            "created_at": int(storage.now()),
            "upload_id": upload.id,
            "bytes": size,
        }
        record = storage.new(PART, body["id"], body, caller, parent=upload.id, expires_at=upload.expires_at)
        await files.keep(record, part.file)
    return json_response({name: value for name, value in body.items() if name != "bytes"})


@route(
    router,
    "POST",
    "/v1/uploads/{upload_id}/complete",
    Contract(reads=CompleteRequest, answers=UploadObject, raises=(RateLimited,)),
)
async def complete_upload(request: Request, upload_id: str, body: CompleteRequest) -> Response:
    """Make the file of its parts, in the order of ``part_ids``. They are kept until that is done."""
    runtime = runtime_of(request)
    files, storage, caller = runtime.files, runtime.storage, caller_of(request)
    upload = await _pending(request, upload_id)
    parts = {part.id: part for part in await _parts(files, upload)}
    for name in body.part_ids:
        if name not in parts:
            raise InvalidRequest(f"The upload has no part {name!r}.", param="part_ids")
    if len(set(body.part_ids)) < len(body.part_ids):
        raise InvalidRequest("A part is named twice.", param="part_ids")
    with files.temporary() as whole:
        size, digest = await files.join([parts[name] for name in body.part_ids], whole)
        if size != upload.body["bytes"]:
            raise InvalidRequest(
                f"The parts have {size:,} bytes, and the upload was begun for {upload.body['bytes']:,}.",
                param="part_ids",
            )
        if body.md5 is not None and body.md5.lower() != digest:
            raise InvalidRequest("The parts have another MD5. Upload them again.", param="md5")
        seconds, purpose, now = upload.body["seconds"], upload.body["purpose"], storage.now()
        file = files.described(
            new_id("file").replace("_", "-"),
            caller,
            size=size,
            filename=upload.body["filename"],
            purpose=purpose,
            expires_at=expiry(
                seconds and ExpiresAfter(anchor="created_at", seconds=seconds), purpose, now, storage.settings.keep
            ),
        )
        await files.keep(file, whole, instead_of=list(parts.values()))
    try:
        done = await storage.records.replace(upload.changed(status="completed", file=file.body))
    except BaseException:
        await files.delete(file)
        raise
    if done is None:
        await files.delete(file)
        raise InvalidRequest("The upload was completed or cancelled by another request.")
    await _forget(files, list(parts.values()))
    return json_response(_shown(done, storage.now()))


@route(router, "POST", "/v1/uploads/{upload_id}/cancel", Contract(answers=UploadObject))
async def cancel_upload(request: Request, upload_id: str) -> Response:
    """Cancel an upload and delete its parts."""
    runtime = runtime_of(request)
    upload = await _pending(request, upload_id)
    done = await runtime.storage.records.replace(upload.changed(status="cancelled"))
    if done is None:
        raise InvalidRequest("The upload was completed or cancelled by another request.")
    await _forget(runtime.files, await _parts(runtime.files, upload))
    return json_response(_shown(done, runtime.storage.now()))


async def _pending(request: Request, upload_id: str) -> Record:
    """The caller's upload. Raises NotFound, and InvalidRequest if it takes no parts any more."""
    storage = runtime_of(request).storage
    upload = await storage.found(UPLOAD, upload_id, caller_of(request), param="upload_id")
    status = _shown(upload, storage.now())["status"]
    if status != "pending":
        raise InvalidRequest(f"The upload is {status}. Begin another one.", param="upload_id")
    return upload


def _shown(upload: Record, now: float) -> Json:
    expired = upload.status == "pending" and now >= upload.body["expires_at"]
    body = {name: value for name, value in upload.body.items() if name != "seconds"}
    return {**body, "status": "expired" if expired else upload.status}


async def _parts(files: Files, upload: Record) -> list[Record]:
    query = RecordQuery(PART, owner=upload.owner, parent=upload.id, limit=1000)
    return [part async for part in every(files.storage.records, query)]


async def _forget(files: Files, parts: list[Record]) -> None:
    await asyncio.gather(*(files.delete(part) for part in parts))
