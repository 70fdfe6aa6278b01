"""POST /v1/responses: OpenAI's Responses API in front of every chat model.

The translation is imported by the first request, because most servers are never asked in this language.
"""

from __future__ import annotations

import time
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.wire.answers import OpenAIResponse, ResponseEvent
from backends.wire.responses import ResponsesRequest
from server.answers.streams import stream_events
from server.answers.whole import answer_json
from server.edge.callers import caller_of, origin_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.jobs import chat_job
from server.wires.translation import TranslatedAssembler, TranslatedEncoder
from server.wires.web_search import can_search

router = APIRouter(tags=["responses"])


@route(
    router,
    "POST",
    "/v1/responses",
    Contract(reads=ResponsesRequest, answers=OpenAIResponse, streams=ResponseEvent, calls_model=True),
)
async def create_response(request: Request, body: ResponsesRequest) -> Response:
    """Answer a response request: whole, or as a stream of typed events."""
    from server.wires.responses import ResponseStream, to_chat

    searches = partial(can_search, runtime=runtime_of(request), caller=caller_of(request))
    job = chat_job(to_chat(body, searches=searches), origin_of(request))

    def translation() -> ResponseStream:
        return ResponseStream(request=body, response_id=f"resp_{job.trace}", created_at=int(time.time()))

    if body.stream:
        stream = translation()
        return await stream_events(request, job, TranslatedEncoder(stream, opening=stream.start))
    return await answer_json(
        request, job, lambda: TranslatedAssembler(translation(), whole=ResponseStream.response)
    )
