"""POST /v1/messages: Anthropic's Messages API in front of every chat model.

The translation is imported by the first request, because most servers are never asked in this language.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.wire.answers import AnthropicMessage, MessageEvent, TokenCount
from backends.wire.messages import CountTokensRequest, MessagesRequest
from catalog.errors import UnsupportedParameter
from server.answers.streams import stream_events
from server.answers.whole import answer_json, json_response
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.jobs import chat_job
from server.wires.translation import TranslatedAssembler, TranslatedEncoder

router = APIRouter(tags=["messages"])


@route(
    router,
    "POST",
    "/v1/messages",
    Contract(reads=MessagesRequest, answers=AnthropicMessage, streams=MessageEvent, calls_model=True),
)
async def create_message(request: Request, body: MessagesRequest) -> Response:
    """Answer a conversation in Anthropic's shape: whole, or as a stream of named events."""
    from server.wires.messages import MessageStream, to_chat

    job = chat_job(to_chat(body), origin_of(request))
    translation = MessageStream(
        message_id=f"msg_{job.trace}",
        prompt_tokens=job.facts.prompt_tokens,
        stop_sequences=body.stop_sequences or (),
    )
    if body.stream:
        return await stream_events(request, job, TranslatedEncoder(translation))
    return await answer_json(request, job, TranslatedAssembler(translation, whole=translation.message))


@route(
    router,
    "POST",
    "/v1/messages/count_tokens",
    Contract(reads=CountTokensRequest, answers=TokenCount, raises=(UnsupportedParameter,)),
)
async def count_tokens(request: Request, body: CountTokensRequest) -> Response:
    """Estimate the tokens of a conversation; the header ``x-roundhouse-estimate`` says that it is an estimate."""
    from server.wires.messages import to_chat

    facts = chat_job(to_chat(body), origin_of(request)).facts
    return json_response({"input_tokens": facts.prompt_tokens}, headers={"x-roundhouse-estimate": "true"})
