"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.base import Chat, Upstream
from backends.streams.assemble import ChatAssembler
from backends.wire.chat import ChatRequest
from backends.wire.sampling import StreamOptions
from catalog.errors import InvalidRequest
from catalog.model import Model
from catalog.types import Json
from routing.calling.dispatcher import Job
from routing.calling.judgement import judge_for
from routing.reading.requests import read_chat
from server.answers.streams import ChunkEncoder, stream_events
from server.answers.whole import answer_json, key_of, trace_of
from server.edge.bodies import read_json
from server.edge.routes import DirectRoute

router = APIRouter(tags=["chat"], route_class=DirectRoute)


@router.post("/v1/chat/completions")
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation: whole, or as a stream of events."""
    body = await read_json(request, ChatRequest)
    include_usage = usage_wanted(body.stream, body.stream_options)

    def call(backend: Chat, upstream: Upstream, model: Model) -> AsyncIterator[Json]:
        del model
        return backend.chat(upstream, body)

    job: Job[Json] = Job(
        facts=read_chat(body, key=key_of(request), headers=request.headers),
        protocol=Chat,
        request=body,
        call=call,
        trace=trace_of(request),
        judge=judge_for(body),
    )
    if body.stream:
        return await stream_events(request, job, ChunkEncoder(include_usage=include_usage))
    return await answer_json(request, job, ChatAssembler())


def usage_wanted(stream: bool | None, options: StreamOptions | None) -> bool:
    """Whether the stream ends with a chunk of usage. Raises InvalidRequest for options of no stream."""
    if options is None:
        return False
    if not stream:
        raise InvalidRequest("'stream_options' is only for 'stream: true'.", param="stream_options")
    return bool(options.include_usage)
