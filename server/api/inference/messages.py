"""POST /v1/messages: Anthropic's Messages API in front of every chat model.

The translation is imported by the first request, because most servers are never asked in this language.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.wire.answers import AnthropicMessage, MessageEvent, TokenCount
from backends.wire.messages import CountTokensRequest, MessagesRequest
from catalog.types import Json
from routing.calling.job import Job
from server.answers.counting import count_tokens as counted
from server.answers.streams import stream_events
from server.answers.whole import answer_json, json_response
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
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
    from server.wires.messages import MessageStream, stream_of

    job = await _job(request, body)

    def translation() -> MessageStream:
        return stream_of(body, trace=job.trace, prompt_tokens=job.facts.prompt_tokens)

    if body.stream:
        return await stream_events(request, job, TranslatedEncoder(translation()))
    return await answer_json(request, job, lambda: TranslatedAssembler(translation(), whole=MessageStream.message))


@route(
    router,
    "POST",
    "/v1/messages/count_tokens",
    Contract(reads=CountTokensRequest, answers=TokenCount, calls_model=True),
)
async def count_tokens(request: Request, body: CountTokensRequest) -> Response:
    """Count the tokens of a conversation: exactly by a local model or its provider, else as an estimate.

    The header ``x-roundhouse-estimate`` says that it is one.
    """
    count, headers = await counted(request, await _job(request, body))
    return json_response({"input_tokens": count}, headers=headers)


async def _job(request: Request, body: MessagesRequest | CountTokensRequest) -> Job[Json]:
    from server.history.messages import message_chat

    origin = origin_of(request)
    return chat_job(await message_chat(body, origin, runtime_of(request), request.query_params), origin)
