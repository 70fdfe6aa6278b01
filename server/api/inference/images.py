"""POST /v1/images/generations, and the addresses of pictures."""

from __future__ import annotations

import asyncio
import base64
import time
from hashlib import blake2b
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from backends.wire.images import ImageRequest
from backends.wire.images.answers import ImageEvent, ImageList
from catalog.errors import RateLimited, StreamBroken
from catalog.types import Json
from routing.calling.job import Job
from server.answers.streams import EventEncoder, stream_events
from server.answers.whole import json_response, whole
from server.edge.callers import caller_of, origin_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.jobs import image_job
from server.storage.pictures import PictureShelf

router = APIRouter(tags=["images"])
COMPLETED = "image_generation.completed"
MEDIA = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/svg+xml")
_OF_PICTURES = ("b64_json", "revised_prompt", "seed")
_SHARED = ("background", "quality", "size")


@route(
    router,
    "POST",
    "/v1/images/generations",
    Contract(reads=ImageRequest, answers=ImageList, streams=ImageEvent, calls_model=True, raises=(RateLimited,)),
)
async def create_image(request: Request, body: ImageRequest) -> Response:
    """Draw pictures: whole, or as a stream of events with the pictures in the making."""
    return await answer_pictures(request, image_job(body, origin_of(request)), body, COMPLETED)


@route(
    router,
    "GET",
    "/v1/images/files/{name}",
    Contract(media=dict.fromkeys(MEDIA, bytes), open=True),
)
async def download_image(request: Request, name: str) -> Response:
    """Return the bytes of a picture that an answer named by its address."""
    files = runtime_of(request).files
    record = await PictureShelf(files).find(name)
    headers = {
        "cache-control": "private, max-age=3600",
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
        "etag": f'"{blake2b(record.id.encode(), digest_size=12).hexdigest()}"',
        "x-content-type-options": "nosniff",
    }
    if headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return FileResponse(files.path(record.id), media_type=record.body["media_type"], headers=headers)


async def answer_pictures(request: Request, job: Job[Json], body: ImageRequest, completed: str) -> Response:
    """The answer to a request for pictures; ``completed`` is the type of the event of a finished one."""
    if body.stream:
        return await stream_events(request, job, PictureEncoder(body, completed))
    named = body.response_format == "url"
    if named:
        await runtime_of(request).files.check_room(caller_of(request).id)
    document, headers = await whole(request, job, lambda: Pictures(body, completed))
    if named:
        document["data"] = [await _with_address(request, picture) for picture in document["data"]]
    return json_response(document, headers=headers)


async def _with_address(request: Request, picture: Json) -> Json:
    """The picture with an address of ours in place of its bytes."""
    try:
        data = await asyncio.to_thread(base64.b64decode, picture["b64_json"], validate=True)
    except ValueError:
        raise StreamBroken("The picture is not base64.") from None
    name = await PictureShelf(runtime_of(request).files).keep(data, caller_of(request))
    rest = {name: value for name, value in picture.items() if name != "b64_json"}
    return {"url": f"{request.base_url}v1/images/files/{name}", **rest}


class PictureEncoder(EventEncoder):
    """Encodes events of pictures, which are named by their type, and get the fields that a model did not tell.

    What is not known is what was asked for, else ``auto``; a usage that is not told is of no tokens.
    """

    def __init__(self, body: ImageRequest, completed: str) -> None:
        super().__init__(completed)
        self._completed = completed
        self._asked: Json = {
            "background": body.background or "auto",
            "output_format": body.output_format or "png",
            "quality": body.quality or "auto",
            "size": body.size or "auto",
        }

    def encode(self, item: Json) -> bytes:
        if item.get("b64_json") is not None:
            told = {name: value for name, value in item.items() if value is not None}
            item = {**self._asked, "created_at": int(time.time()), **told}
            if item["type"] == self._completed:
                item["usage"] = _whole_usage(item.get("usage"))
        return b"event: " + str(item.get("type")).encode() + b"\n" + super().encode(item)


def _whole_usage(told: Any) -> Json:
    """A usage with all that OpenAI's has; tokens of the prompt that are not said to be a picture's are text."""
    usage = _counts(told)
    read, made = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    details = _counts(usage.get("input_tokens_details"))
    pictures = details.get("image_tokens", 0)
    split = {"image_tokens": pictures, "text_tokens": max(0, read - pictures), **details}
    return {"input_tokens": read, "output_tokens": made, "total_tokens": read + made, **usage} | {
        "input_tokens_details": split
    }


def _counts(told: Any) -> Json:
    return {name: value for name, value in told.items() if value is not None} if isinstance(told, dict) else {}


class Pictures:
    """Assembles the completed pictures, which may be fewer than were asked for; the backend says so in a notice.

    With ``data_urls`` a ``url`` is a data URL, for answers that are files.
    """

    def __init__(self, body: ImageRequest, completed: str = COMPLETED, *, data_urls: bool = False) -> None:
        self._completed = completed
        self._as_url = data_urls and body.response_format == "url"
        self._format = body.output_format or "png"
        self._data: list[Json] = []
        self._shared: Json = {}
        self._usage: Json | None = None

    def add(self, item: Json) -> None:
        if item.get("type") != self._completed:
            return
        picture = {name: item[name] for name in _OF_PICTURES if item.get(name) is not None}
        self._format = item.get("output_format") or self._format
        self._shared |= {name: item[name] for name in _SHARED if item.get(name)}
        if self._as_url:
            picture["url"] = f"data:image/{self._format};base64,{picture.pop('b64_json')}"
        self._data.append(picture)
        self._usage = item.get("usage") or self._usage

    def result(self) -> Json:
        if not self._data:
            raise StreamBroken("No picture came.")
        made = {"created": int(time.time()), "data": self._data, "output_format": self._format}
        whole_answer: Json = {**made, **self._shared}
        if self._usage is not None:
            whole_answer["usage"] = self._usage
        return whole_answer
