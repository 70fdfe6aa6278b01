"""POST /v1/images/generations."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.wire.answers import ImageEvent, ImageList
from backends.wire.images import ImageRequest
from catalog.errors import StreamBroken
from catalog.types import Json
from server.answers.streams import EventEncoder, stream_events
from server.answers.whole import answer_json
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.jobs import image_job

router = APIRouter(tags=["images"])
COMPLETED = "image_generation.completed"


@route(
    router,
    "POST",
    "/v1/images/generations",
    Contract(reads=ImageRequest, answers=ImageList, streams=ImageEvent, calls_model=True),
)
async def create_image(request: Request, body: ImageRequest) -> Response:
    """Draw pictures: whole, or as a stream of events with the pictures in the making."""
    job = image_job(body, origin_of(request))
    if body.stream:
        return await stream_events(request, job, EventEncoder(COMPLETED))
    return await answer_json(request, job, lambda: Pictures(body))


class Pictures:
    """Assembles the completed pictures. ``url`` gives data URLs, since no picture is stored."""

    def __init__(self, body: ImageRequest) -> None:
        self._wanted = body.n or 1
        self._as_url = body.response_format == "url"
        self._format = body.output_format or "png"
        self._data: list[Json] = []
        self._usage: Json | None = None

    def add(self, item: Json) -> None:
        if item.get("type") != COMPLETED:
            return
        picture = {name: item[name] for name in ("b64_json", "url", "revised_prompt", "seed") if item.get(name)}
        if self._as_url and "url" not in picture:
            picture["url"] = f"data:image/{self._format};base64,{picture.pop('b64_json')}"
        self._data.append(picture)
        self._usage = item.get("usage") or self._usage

    def result(self) -> Json:
        if len(self._data) < self._wanted:
            raise StreamBroken(f"{len(self._data)} of {self._wanted} pictures came.")
        whole: Json = {"created": int(time.time()), "data": self._data, "output_format": self._format}
        if self._usage is not None:
            whole["usage"] = self._usage
        return whole
