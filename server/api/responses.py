"""POST /v1/responses: OpenAI's Responses API in front of every chat model.

The translation is imported by the first request: most houses are never asked in this language.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.base import Chat, Upstream
from backends.wire.responses import ResponsesRequest
from catalog.model import Model
from catalog.types import Json
from routing.calling.dispatcher import Job
from routing.calling.judgement import judge_for
from routing.reading.requests import read_chat
from server.answers.streams import stream_events
from server.answers.whole import answer_json, key_of, trace_of
from server.edge.bodies import read_json
from server.edge.routes import DirectRoute
from server.wires.translation import TranslatedAssembler, TranslatedEncoder

router = APIRouter(tags=["responses"], route_class=DirectRoute)


@router.post("/v1/responses")
async def create_response(request: Request) -> Response:
    """Answer a response request: whole, or as a stream of typed events."""
    from server.wires.responses import ResponseStream, to_chat

    body = await read_json(request, ResponsesRequest)
    chat = to_chat(body)

    def call(backend: Chat, upstream: Upstream, model: Model) -> AsyncIterator[Json]:
        del model
        return backend.chat(upstream, chat)

    job: Job[Json] = Job(
        facts=read_chat(chat, key=key_of(request), headers=request.headers),
        protocol=Chat,
        request=chat,
        call=call,
        trace=trace_of(request),
        judge=judge_for(chat),
    )
    translation = ResponseStream(request=body, response_id=f"resp_{job.trace}", created_at=int(time.time()))
    if body.stream:
        return await stream_events(request, job, TranslatedEncoder(translation, opening=translation.start))
    return await answer_json(request, job, TranslatedAssembler(translation, whole=translation.response))
