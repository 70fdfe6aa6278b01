"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.base import Complete, Json, Upstream
from backends.wire.assemble import CompletionAssembler
from backends.wire.completions import CompletionRequest
from catalog.model import Model
from routing.dispatch import Job
from routing.read import read_completion
from server.answering import answer_json, key_of, trace_of
from server.api.chat import usage_wanted
from server.limits import read_json
from server.routes import DirectRoute
from server.sse import ChunkEncoder, stream_events

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
