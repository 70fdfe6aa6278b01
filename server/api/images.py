"""POST /v1/images/generations."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.base import Draw, Upstream
from backends.wire.images import ImageRequest
from catalog.errors import InvalidRequest, StreamBroken
from catalog.model import Model
from catalog.types import Json
from routing.calling.dispatcher import Job
from routing.reading.requests import read_image
from server.answers.streams import EventEncoder, stream_events
from server.answers.whole import answer_json, key_of, trace_of
from server.edge.bodies import read_json

router = APIRouter(tags=["images"])
COMPLETED = "image_generation.completed"


@router.post("/v1/images/generations")
async def create_image(request: Request) -> Response:
    """Draw pictures: whole, or as a stream of events with the pictures in the making."""
    body = await read_json(request, ImageRequest)
    if body.partial_images and not body.stream:
        raise InvalidRequest("'partial_images' is only for 'stream: true'.", param="partial_images")
    if body.stream and body.response_format == "url":
        raise InvalidRequest("A stream carries pictures as b64_json.", param="response_format")

    def call(backend: Draw, upstream: Upstream, model: Model) -> AsyncIterator[Json]:
        del model
        return backend.draw(upstream, body)

    job: Job[Json] = Job(
        facts=read_image(body, key=key_of(request), headers=request.headers),
        protocol=Draw,
        request=body,
        call=call,
        trace=trace_of(request),
    )
    if body.stream:
        return await stream_events(request, job, EventEncoder(COMPLETED))
    return await answer_json(request, job, _Pictures(body))


class _Pictures:
    """Collects the completed pictures. ``url`` gives data URLs: nothing is kept here to link to."""

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
