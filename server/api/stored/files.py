"""/v1/files: OpenAI's Files API. A file belongs to the key that uploaded it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.responses import FileResponse, Response
from typing_extensions import TypedDict

from backends.wire.common import AS_COUNT, WireModel
from catalog.errors import InvalidRequest, NotFound, RateLimited
from routing.state.records import Record, RecordQuery, new_id
from server.answers.whole import json_response
from server.edge.bodies import read_form, read_query
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.errors import speaks_anthropic
from server.edge.json_body import from_validation
from server.edge.services import runtime_of
from server.storage.files import FILE
from server.storage.storage import Page, listed

router = APIRouter(tags=["files"])
Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
FileName = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
FORM_OVERHEAD = 1 << 20
"""Bytes of a form beside its file."""


class ExpiresAfter(BaseModel):
    """When a file expires: ``seconds`` (an hour to 30 days) after it was made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class FileForm(WireModel):
    """A file to keep. ``expires_after`` is sent as ``expires_after[anchor]`` and ``expires_after[seconds]``."""

    file: bytes
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class FileObject(TypedDict):
    """A file; times are Unix seconds, and one without ``expires_at`` is kept until it is deleted."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class FileList(TypedDict):
    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(TypedDict):
    id: str
    object: Literal["file"]
    deleted: bool


class FileListQuery(BaseModel):
    """A page of the files, the newest first; ``after`` is the id of the file before it."""

    purpose: str | None = Field(default=None, max_length=64)
    limit: Annotated[int, Field(ge=1, le=10_000), AS_COUNT] = 10_000
    order: Literal["asc", "desc"] = "desc"
    after: str | None = Field(default=None, max_length=128)


@route(
    router,
    "POST",
    "/v1/files",
    Contract(reads=FileForm, form=True, own_reading=True, answers=FileObject, raises=(RateLimited,)),
)
async def create_file(request: Request) -> Response:
    """Keep a file. With ``anthropic-version`` among the headers no purpose is needed, and all is in its shape."""
    runtime = runtime_of(request)
    files, settings = runtime.files, runtime.storage.settings
    async with read_form(request, limit=settings.file_bytes + FORM_OVERHEAD, folder=files.folder) as form:
        upload = file_of(form, "file")
        fields = _fields(form, {"purpose": "user_data"} if speaks_anthropic(request.scope) else {})
        purpose: str = fields["purpose"]
        record = files.described(
            new_id("file").replace("_", "-"),
            caller_of(request),
            size=upload.size or 0,
            filename=file_name(upload.filename),
            purpose=purpose,
            expires_at=expiry(fields.get("expires_after"), purpose, runtime.storage.now(), settings.keep),
        )
        await files.keep(record, upload.file)
    return _described(request, record)


@route(router, "GET", "/v1/files", Contract(query=FileListQuery, answers=FileList))
async def list_files(request: Request, query: FileListQuery) -> Response:
    """List the caller's files."""
    if speaks_anthropic(request.scope):
        return await _anthropic_page(request)
    purpose = query.purpose
    rows, more = await runtime_of(request).storage.page(
        RecordQuery(FILE, owner=caller_of(request).id),
        Page(query.limit, query.order, query.after),
        keep=None if purpose is None else lambda record: record.body["purpose"] == purpose,
    )
    return json_response(listed([row.body for row in rows], more))


@route(router, "GET", "/v1/files/{file_id}", Contract(answers=FileObject))
async def retrieve_file(request: Request, file_id: str) -> Response:
    """Describe one file."""
    return _described(request, await found(request, file_id))


@route(router, "GET", "/v1/files/{file_id}/content", Contract(media={"application/octet-stream": bytes}))
async def download_file(request: Request, file_id: str) -> Response:
    """Return the bytes of a file; a ``Range`` header asks for a part of them."""
    runtime = runtime_of(request)
    record = await found(request, file_id)
    path = runtime.files.path(record.id)
    if not path.is_file():
        raise NotFound(f"The content of the file {record.id!r} is gone.")
    return FileResponse(path, media_type="application/octet-stream", filename=record.body["filename"])


@route(router, "DELETE", "/v1/files/{file_id}", Contract(answers=DeletedFile))
async def delete_file(request: Request, file_id: str) -> Response:
    """Delete a file. A batch that is at work on it goes on."""
    record = await found(request, file_id)
    await runtime_of(request).files.delete(record)
    if speaks_anthropic(request.scope):
        return json_response({"id": record.id, "type": "file_deleted"})
    return json_response({"id": record.id, "object": "file", "deleted": True})


def _described(request: Request, record: Record) -> Response:
    """The file in the shape of the caller's API."""
    if not speaks_anthropic(request.scope):
        return json_response(record.body)
    from server.wires.messages.files import file_info

    return json_response(file_info(record.body))


async def _anthropic_page(request: Request) -> Response:
    from server.wires.messages.files import FilePageQuery, file_page

    asked = read_query(request, FilePageQuery)
    rows, more = await runtime_of(request).storage.page(
        RecordQuery(FILE, owner=caller_of(request).id),
        Page(asked.limit, "desc", asked.after, asked.before_id),
    )
    return json_response(file_page([row.body for row in rows], more=more))


async def found(request: Request, file_id: str) -> Record:
    """The record of the caller's file. Raises NotFound."""
    return await runtime_of(request).storage.found(FILE, file_id, caller_of(request), param="file_id")


def file_of(form: FormData, name: str) -> UploadFile:
    """The form's file. Raises InvalidRequest if there is none under this name, or it is empty."""
    upload = form.get(name)
    if not isinstance(upload, UploadFile):
        raise InvalidRequest(f"The form has no '{name}', which must be a file with a filename.", param=name)
    if not upload.size:
        raise InvalidRequest("The file is empty.", param=name)
    return upload


def file_name(given: str | None) -> str:
    """The last part of a client's name for a file, for display alone."""
    name = (given or "").replace("\\", "/").rpartition("/")[2].replace("\0", "")
    return name.encode("utf-8", "replace").decode()[:1024] or "file"


def expiry(expires_after: ExpiresAfter | None, purpose: str, now: float, keep: float) -> float | None:
    """The time at which a file expires: as its caller says, else inputs of batches after ``keep`` seconds."""
    if expires_after is not None:
        return now + expires_after.seconds
    return now + keep if purpose == "batch" else None


def _fields(form: FormData, usual: dict[str, Any]) -> dict[str, Any]:
    sent: dict[str, Any] = {"file": b".", **usual}
    for name, value in form.multi_items():
        if name == "file":
            continue
        if isinstance(value, UploadFile):
            raise InvalidRequest("The only file is 'file'.", param=name[:64])
        outer, _, inner = name.partition("[")
        if inner:
            seconds = inner == "seconds]" and value.isascii() and value.isdigit() and len(value) < 10
            sent.setdefault(outer, {})[inner.rstrip("]")] = int(value) if seconds else value
        else:
            sent[name] = value
    try:
        parsed = FileForm.model_validate(sent)
    except ValidationError as error:
        raise from_validation(error, sent) from None
    if parsed.model_extra:
        unknown = next(iter(parsed.model_extra))[:64]
        raise InvalidRequest(f"'{unknown}' is no field of a file.", param=unknown)
    return {"purpose": parsed.purpose, "expires_after": parsed.expires_after}
