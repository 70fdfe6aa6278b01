"""/v1/videos: OpenAI's Videos API. A video belongs to the key that made it."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import FileResponse, Response
from typing_extensions import TypedDict

from backends.wire.common import AS_COUNT, WireModel
from backends.wire.video.request import LONGEST, MAX_SOURCE, USUAL_SECONDS, VideoRequest
from catalog.errors import (
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    RoundhouseError,
    Unavailable,
    UndecodableMedia,
    UnsupportedParameter,
)
from catalog.types import Json
from routing.reading.intent import is_auto
from routing.state.records import Record, RecordQuery
from server.answers.whole import json_response
from server.edge.callers import caller_of, origin_of, with_stand_in
from server.edge.contracts import Contract, route
from server.edge.json_body import as_model
from server.edge.services import runtime_of
from server.jobs import permitted, video_job
from server.runtime import Runtime
from server.storage.files import writing
from server.storage.runner import CANCELLING
from server.storage.storage import Page, listed
from server.videos.objects import (
    IMAGE,
    INTERNAL,
    MP4,
    SOURCE,
    VIDEO,
    SourceVideo,
    VideoObject,
    delete_files,
    new_video,
)
from server.videos.reading import (
    EditForm,
    ExtendForm,
    RemixBody,
    VideoForm,
    read_edit,
    read_video_form,
    refuse_internal,
)
from server.videos.work import VideoWork

router = APIRouter(tags=["videos"])
PATIENCE = 1.0
"""Seconds for which a new video waits for its beginning, so that a refusal is the answer to its request."""
_CANCEL = 5.0
"""Seconds for which a cancellation waits for the process at work."""
_MEDIA: Mapping[str, str] = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}


class VideoList(TypedDict):
    object: Literal["list"]
    data: list[VideoObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(TypedDict):
    id: str
    object: Literal["video.deleted"]
    deleted: bool


class VideoListQuery(BaseModel):
    """A page of the videos, the newest first; ``after`` is the id of the video before it."""

    limit: Annotated[int, Field(ge=1, le=100), AS_COUNT] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = Field(default=None, max_length=128)


class VariantQuery(WireModel):
    """The file to download: the MP4, its first frame as WebP, or a sheet of 16 stills as JPEG."""

    variant: Literal["video", "thumbnail", "spritesheet"] = "video"


def _makes(reads: type[BaseModel], *, form: bool = True) -> Contract:
    """The contract of an endpoint that makes a video."""
    return Contract(
        reads=reads,
        form=form,
        json_too=reads if form else None,
        own_reading=form,
        answers=VideoObject,
        calls_model=True,
        raises=(RateLimited,),
    )


@route(router, "POST", "/v1/videos", _makes(VideoForm))
async def create_video(request: Request) -> Response:
    """Make a video in the background. What its model refuses at once is the answer to this request."""
    body = with_stand_in(request, await read_video_form(request))
    return await _created(request, body)


@route(router, "GET", "/v1/videos", Contract(query=VideoListQuery, answers=VideoList))
async def list_videos(request: Request, query: VideoListQuery) -> Response:
    """List the caller's videos."""
    rows, more = await runtime_of(request).storage.page(
        RecordQuery(VIDEO, owner=caller_of(request).id), Page(query.limit, query.order, query.after)
    )
    return json_response(listed([row.body["video"] for row in rows], more))


@route(router, "POST", "/v1/videos/edits", _makes(EditForm))
async def edit_video(request: Request) -> Response:
    """Change a video by a prompt."""
    form, upload = await read_edit(request, EditForm)
    return await _from_video(request, form, upload, "edit")


@route(router, "POST", "/v1/videos/extensions", _makes(ExtendForm))
async def extend_video(request: Request) -> Response:
    """Go on from the end of a video; the new one has both."""
    form, upload = await read_edit(request, ExtendForm)
    return await _from_video(request, form, upload, "extend")


async def refuse_characters(request: Request) -> Response:
    """Raises InvalidRequest: a character is an account's at OpenAI, and no model here knows one."""
    del request
    raise InvalidRequest(
        "Characters of videos are not kept here. Send a picture of it as 'input_reference', or the video that it "
        "is in to /v1/videos/edits.",
        param="video",
    )


for _method, _path in (("POST", "/v1/videos/characters"), ("GET", "/v1/videos/characters/{character_id:path}")):
    route(router, _method, _path, Contract(hidden=True))(refuse_characters)


@route(router, "GET", "/v1/videos/{video_id}", Contract(answers=VideoObject))
async def retrieve_video(request: Request, video_id: str) -> Response:
    """Describe one video."""
    record = await _found(request, video_id)
    return json_response(record.body["video"], headers={"openai-poll-after-ms": "1000"} if record.status else None)


@route(
    router,
    "GET",
    "/v1/videos/{video_id}/content",
    Contract(query=VariantQuery, media=dict.fromkeys(_MEDIA.values(), bytes), raises=(InvalidRequest,)),
)
async def download_video(request: Request, video_id: str, query: VariantQuery) -> Response:
    """Return a finished video, or stills of it; a ``Range`` header asks for a part."""
    record = _finished(await _found(request, video_id))
    files = runtime_of(request).files
    path = files.path(f"{record.id}.{MP4}")
    if not path.is_file():
        raise NotFound(f"The content of the video {record.id!r} is gone.")
    ending = "mp4"
    if query.variant != "video":
        whole, path = path, files.path(f"{record.id}.{query.variant}")
        ending = "webp" if query.variant == "thumbnail" else "jpg"
        if not path.is_file():
            made = await _work(runtime_of(request)).stills.make(query.variant, whole)
            with files.temporary() as file:
                file.write(made)
                await files.publish(file, path)
    return FileResponse(path, media_type=_MEDIA[query.variant], filename=f"{record.id}.{ending}")


@route(router, "DELETE", "/v1/videos/{video_id}", Contract(answers=DeletedVideo))
async def delete_video(request: Request, video_id: str) -> Response:
    """Delete a video, also at the provider that made it; one in the making is stopped."""
    runtime = runtime_of(request)
    record = await _found(request, video_id)
    if record.status:
        record = await _cancelled(request, record)
    else:
        await _work(runtime).discard(record)
    await runtime.storage.records.delete(VIDEO, record.id, caller_of(request).id)
    delete_files(runtime.files, record.id)
    return json_response({"id": record.id, "object": "video.deleted", "deleted": True})


@route(router, "POST", "/v1/videos/{video_id}/cancel", Contract(answers=VideoObject))
async def cancel_video(request: Request, video_id: str) -> Response:
    """Stop a video in the making: it fails with the code ``cancelled``. One that has ended stays as it is."""
    record = await _found(request, video_id)
    if record.status:
        record = await _cancelled(request, record)
    return json_response(record.body["video"])


@route(router, "POST", "/v1/videos/{video_id}/remix", _makes(RemixBody, form=False))
async def remix_video(request: Request, video_id: str, body: RemixBody) -> Response:
    """Make a video anew by another prompt, with its own model, length and settings."""
    refuse_internal(body)
    source = _finished(await _found(request, video_id))
    internal = source.body[INTERNAL]
    _check_same(body.model, internal["model"], "model")
    length = max(_whole(source.body["video"]["seconds"]), int(internal["request"]["seconds"]))
    fields = {**internal["request"], **_given(body), "task": "remix"}
    fields |= {"model": internal["model"], **_held_to(body, source, length)}
    return await _created(request, as_model(VideoRequest, fields), source=source)


# ---- parts


async def _from_video(
    request: Request, form: EditForm, upload: bytes | None, task: Literal["edit", "extend"]
) -> Response:
    fields: Json = {**_given(form), "task": task}
    work = _work(runtime_of(request))
    if form.video is None:
        assert upload is not None
        if task == "edit":
            fields |= _of_length(form, await _length(work, runtime_of(request), upload))
        fields["resized"] = form.size is not None
        body = as_model(VideoRequest, {**fields, "source": upload})
        return await _created(request, with_stand_in(request, body))
    source = _finished(await _found(request, form.video.id))
    own = {name: source.body[INTERNAL]["request"].get(name) for name in ("size", "fps")}
    fields = {**{name: value for name, value in own.items() if value is not None}, **fields}
    fields.setdefault("model", source.body[INTERNAL]["model"])
    length = _whole(source.body["video"]["seconds"]) if task == "edit" else None
    body = as_model(VideoRequest, {**fields, **_held_to(form, source, length)})
    return await _created(request, with_stand_in(request, body), source=source)


def _given(body: RemixBody) -> Json:
    """The fields of the new video that a request names; a null names nothing."""
    told = {name: getattr(body, name) for name in body.model_fields_set - {"video"}}
    return {name: value for name, value in told.items() if value is not None} | (body.model_extra or {})


def _held_to(body: RemixBody, source: Record, length: int | None) -> Json:
    """The length of a source, if it holds, and whether another size than its own is asked for."""
    own = (source.body[INTERNAL]["request"].get("size"), source.body["video"]["size"])
    resized = body.size is not None and body.size not in own
    told = source.body["video"]["seconds"]
    return {"resized": resized, **({} if length is None else _of_length(body, length, told))}


def _of_length(body: RemixBody, length: int, told: str = "") -> Json:
    """A video that is changed has the length of its source. Raises UnsupportedParameter for another."""
    _check_same(body.seconds, str(length), "seconds", told)
    return {"seconds": str(length)}


def _check_same(given: str | None, own: str, name: str, other: str = "") -> None:
    if given not in (None, own, other):
        raise UnsupportedParameter(
            f"'{name}' is that of the source: {own!r}. Leave it out, or make a new video with POST /v1/videos.",
            param=name,
        )


async def _length(work: VideoWork, runtime: Runtime, video: bytes) -> int:
    """The whole seconds of an uploaded video; the usual ones without PyAV. Raises UndecodableMedia."""
    with runtime.files.temporary() as file:
        await asyncio.to_thread(file.write, video)
        await asyncio.to_thread(file.flush)
        try:
            told = await work.stills.describe(Path(file.name))
        except UndecodableMedia as error:
            error.param = "video"
            raise
    return int(USUAL_SECONDS) if told is None else _whole(told["seconds"])


def _whole(seconds: str | float) -> int:
    """Seconds as they are charged for: the begun one counts."""
    return min(LONGEST, max(1, math.ceil(float(seconds))))


async def _created(request: Request, body: VideoRequest, *, source: Record | None = None) -> Response:
    """Store a new video and begin with it; the answer waits a moment for its beginning.

    Raises what its model refuses within that moment, and FilesFull.
    """
    runtime, caller, origin = runtime_of(request), caller_of(request), origin_of(request)
    runner, files = runtime.runner, runtime.files
    if runner is None or runtime.storage.settings.videos <= 0:
        raise Unavailable("This server makes no videos: storage.videos is 0.")
    facts = permitted(video_job(body, origin).facts, caller, runtime.catalog)
    if not is_auto(facts.requested):
        runtime.catalog.replicas(facts.requested)
    await files.check_room(caller.id)
    record = new_video(files, caller, body, origin.headers, None if source is None else _source(source, body))
    try:
        await _keep_parts(runtime, record, body, source)
        await runtime.storage.keep(record)
    except BaseException:
        delete_files(files, record.id)
        raise
    headers: Mapping[str, str] = {}
    async with _work(runtime).watched(record.id) as begun:
        await runner.begin(record)
        await asyncio.wait((begun,), timeout=PATIENCE)
        if begun.done():
            try:
                headers = begun.result()
            except RoundhouseError:
                await runtime.storage.records.delete(VIDEO, record.id, caller.id)
                delete_files(files, record.id)
                raise
    current = await runtime.storage.records.get(VIDEO, record.id, caller.id)
    return json_response((current or record).body["video"], headers=headers)


async def _keep_parts(runtime: Runtime, record: Record, body: VideoRequest, source: Record | None) -> None:
    """Keep what a video is made from, until it is made: the source may be deleted meanwhile."""
    files = runtime.files
    for ending, data in ((IMAGE, body.image), (SOURCE, body.source)):
        if data is not None:
            with files.temporary() as file:
                await asyncio.to_thread(file.write, data)
                await files.publish(file, files.path(f"{record.id}.{ending}"))
    if source is None:
        return
    path = files.path(f"{source.id}.{MP4}")
    with suppress(FileNotFoundError), writing():
        if path.stat().st_size > MAX_SOURCE:
            raise PayloadTooLarge(
                f"A video to make another from has {MAX_SOURCE // 2**20} MiB at most.", param="video"
            )
        await asyncio.to_thread(os.link, path, files.path(f"{record.id}.{SOURCE}"))
        return
    raise NotFound(f"The content of the video {source.id!r} is gone.")


def _source(source: Record, body: VideoRequest) -> SourceVideo:
    """The source of a video; its name at the server that made it counts where the same model goes on from it."""
    internal = source.body[INTERNAL]
    if body.model != internal["model"]:
        return SourceVideo(source.id)
    return SourceVideo(source.id, internal["accepted"], internal["key"])


async def _found(request: Request, video_id: str) -> Record:
    """The record of the caller's video. Raises NotFound."""
    return await runtime_of(request).storage.found(VIDEO, video_id, caller_of(request), param="video_id")


def _finished(record: Record) -> Record:
    """The record of a video that is there. Raises InvalidRequest for any other."""
    video: Json = record.body["video"]
    if video["status"] == "failed":
        raise InvalidRequest(f"The video was not made: {video['error']['message']}", param="video_id")
    if record.status or video["status"] != "completed":
        raise InvalidRequest(
            f"The video is not finished: its status is '{video['status']}', at {video['progress']}%. Ask for it "
            "again later.",
            param="video_id",
        )
    return record


def _work(runtime: Runtime) -> VideoWork:
    assert runtime.runner is not None
    work = runtime.runner.work(VIDEO)
    assert isinstance(work, VideoWork)
    return work


async def _cancelled(request: Request, record: Record) -> Record:
    """The record of a video once it has ended, or as it is after some seconds."""
    runtime = runtime_of(request)
    assert runtime.runner is not None
    marked = await runtime.storage.change(
        VIDEO,
        record.id,
        caller_of(request),
        lambda current: current.changed(status=CANCELLING) if current.status else current,
    )
    await runtime.runner.cancel(marked)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _CANCEL
    while True:
        current = await _found(request, record.id)
        if not current.status or loop.time() > deadline:
            return current
        await asyncio.sleep(0.05)
