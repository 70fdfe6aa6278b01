"""POST /v1/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.streams.assemble import CompletionAssembler
from backends.wire.answers import Completion
from backends.wire.completions import CompletionRequest
from server.answers.streams import ChunkEncoder, stream_events, usage_wanted
from server.answers.whole import answer_json
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.jobs import completion_job

router = APIRouter(tags=["completions"])


@route(
    router,
    "POST",
    "/v1/completions",
    Contract(reads=CompletionRequest, answers=Completion, streams=Completion, calls_model=True),
)
async def create_completion(request: Request, body: CompletionRequest) -> Response:
    """Continue a prompt: whole, or as a stream of events."""
    include_usage = usage_wanted(body.stream, body.stream_options)
    job = completion_job(body, origin_of(request))
    if body.stream:
        return await stream_events(request, job, ChunkEncoder(include_usage=include_usage))
    return await answer_json(request, job, CompletionAssembler())
