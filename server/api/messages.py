"""POST /v1/messages: Anthropic's Messages API in front of every chat model.

The translation is imported by the first request: most houses are never asked in this language.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.base import Chat, Upstream
from backends.wire.messages import CountTokensRequest, MessagesRequest
from catalog.model import Model
from catalog.types import Json
from routing.calling.dispatcher import Job
from routing.calling.judgement import judge_for
from routing.reading.requests import read_chat
from server.answers.streams import stream_events
from server.answers.whole import answer_json, json_response, key_of, trace_of
from server.edge.bodies import read_json
from server.edge.routes import DirectRoute
from server.wires.translation import TranslatedAssembler, TranslatedEncoder

router = APIRouter(tags=["messages"], route_class=DirectRoute)


@router.post("/v1/messages")
async def create_message(request: Request) -> Response:
    """Answer a conversation in Anthropic's shape: whole, or as a stream of named events."""
    from server.wires.messages import MessageStream, to_chat

    body = await read_json(request, MessagesRequest)
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
    translation = MessageStream(message_id=f"msg_{job.trace}", prompt_tokens=job.facts.prompt_tokens)
    if body.stream:
        return await stream_events(request, job, TranslatedEncoder(translation))
    return await answer_json(request, job, TranslatedAssembler(translation, whole=translation.message))


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request) -> Response:
    """About how many tokens a conversation has: the router's estimate, said to be one in a header."""
    from server.wires.messages import to_chat

    body = await read_json(request, CountTokensRequest)
    facts = read_chat(to_chat(body), key=key_of(request), headers=request.headers)
    return json_response({"input_tokens": facts.prompt_tokens}, headers={"x-roundhouse-estimate": "true"})
