"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.base import Complete, Upstream
from backends.streams.assemble import CompletionAssembler
from backends.wire.completions import CompletionRequest
from catalog.model import Model
from catalog.types import Json
from routing.calling.dispatcher import Job
from routing.reading.requests import read_completion
from server.answers.streams import ChunkEncoder, stream_events
from server.answers.whole import answer_json, key_of, trace_of
from server.api.chat import usage_wanted
from server.edge.bodies import read_json
from server.edge.routes import DirectRoute

router = APIRouter(tags=["completions"], route_class=DirectRoute)


@router.post("/v1/completions")
async def create_completion(request: Request) -> Response:
    """Go on from a prompt: whole, or as a stream of events."""
    body = await read_json(request, CompletionRequest)
    include_usage = usage_wanted(body.stream, body.stream_options)

    def call(backend: Complete, upstream: Upstream, model: Model) -> AsyncIterator[Json]:
        del model
        return backend.complete(upstream, body)

    job: Job[Json] = Job(
        facts=read_completion(body, key=key_of(request), headers=request.headers),
        protocol=Complete,
        request=body,
        call=call,
        trace=trace_of(request),
    )
    if body.stream:
        return await stream_events(request, job, ChunkEncoder(include_usage=include_usage))
    return await answer_json(request, job, CompletionAssembler())
