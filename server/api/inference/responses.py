"""POST /v1/responses: OpenAI's Responses API in front of every chat model, and what counts and compacts its input.

The translation is imported by the first request, because most servers are never asked in this language.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.answers import OpenAIResponse, ResponseEvent, ResponseItem, ResponseUsage
from backends.wire.responses import ResponsesRequest
from catalog.errors import NotFound, RateLimited
from routing.facts import Facts
from routing.reading.intent import is_auto
from server.answers.counting import count_tokens
from server.answers.streams import stream_events
from server.answers.whole import json_response, whole
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.jobs import chat_job, permitted
from server.runtime import Runtime
from server.wires.translation import TranslatedAssembler, TranslatedEncoder

if TYPE_CHECKING:
    from server.history.turns import Turn

router = APIRouter(tags=["responses"])


@route(
    router,
    "POST",
    "/v1/responses",
    Contract(
        reads=ResponsesRequest,
        answers=OpenAIResponse,
        streams=ResponseEvent,
        calls_model=True,
        raises=(NotFound, RateLimited),
    ),
)
async def create_response(request: Request, body: ResponsesRequest) -> Response:
    """Answer a response request: whole, as a stream of typed events, or in the background.

    The response is kept, unless ``store`` is false, and can be gone on from with ``previous_response_id``.
    """
    from server.history.recording import RecordedStream
    from server.wires.responses import ResponseStream

    turn = await _turn(request, body)
    if body.background:
        return await _in_background(request, turn)
    origin = origin_of(request)
    job = await turn.job(origin)
    opening = turn.opens(origin)
    if body.stream:
        stream: ResponseStream | RecordedStream = turn.translation()
        keep = turn.keep
        if turn.kept:
            stream = recorded = RecordedStream(stream)
            keep = partial(turn.keep, stream=recorded)
        return await stream_events(
            request, job, TranslatedEncoder(stream, opening=stream.start, keep=keep), opening
        )
    response, headers = await whole(
        request, job, lambda: TranslatedAssembler(turn.translation(), whole=ResponseStream.response), opening
    )
    await turn.keep(response)
    return json_response(response, headers=headers)


async def _turn(request: Request, body: ResponsesRequest) -> Turn:
    from server.history.turns import turn_of

    origin = origin_of(request)
    return await turn_of(runtime_of(request), body, origin.caller, origin.trace)


async def _in_background(request: Request, turn: Turn) -> Response:
    """Store a response to make, and answer with it or with its events.

    Raises what the request would raise, but for what only the model can tell.
    """
    from server.api.stored.responses import followed
    from server.history.background import queued_record
    from server.history.events import record_of

    runtime, origin = runtime_of(request), origin_of(request)
    job = await turn.job(origin)  # a request that cannot be is refused now
    facts = permitted(job.facts, origin.caller, runtime.catalog)
    if not is_auto(facts.requested):
        runtime.catalog.resolve(facts.requested)
    record, events = queued_record(turn, origin.headers)
    assert runtime.runner is not None
    await runtime.storage.keep(record, record_of(record, events))
    await runtime.runner.begin(record)
    headers = {"x-roundhouse-trace": turn.name}
    if turn.body.stream:
        return followed(request, record, after=-1)
    return json_response(record.body["response"], headers=headers)


class ResponseInputTokens(TypedDict):
    """The tokens of an input; the header ``x-roundhouse-estimate`` says that they are estimated."""

    object: Literal["response.input_tokens"]
    input_tokens: int


@route(
    router,
    "POST",
    "/v1/responses/input_tokens",
    Contract(reads=ResponsesRequest, answers=ResponseInputTokens, calls_model=True, raises=(NotFound,)),
)
async def count_response_tokens(request: Request, body: ResponsesRequest) -> Response:
    """Count the tokens of a response request, with what it goes on from: exactly where the model can count."""
    turn = await _turn(request, body.model_copy(update={"background": None}))
    job = await turn.job(origin_of(request))
    count, headers = await count_tokens(request, job)
    return json_response({"object": "response.input_tokens", "input_tokens": count}, headers=headers)


class CompactedResponse(TypedDict):
    """Items to send as ``input`` in place of a long conversation: its user messages and a compaction item."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[ResponseItem]
    usage: ResponseUsage


@route(
    router,
    "POST",
    "/v1/responses/compact",
    Contract(reads=ResponsesRequest, answers=CompactedResponse, calls_model=True, raises=(NotFound,)),
)
async def compact_response(request: Request, body: ResponsesRequest) -> Response:
    """Compact a conversation, in an item that only its maker can read again.

    A model of OpenAI's own endpoints compacts it by OpenAI's API, whose item goes back to that endpoint alone. Any
    other model summarises it, in an item that only the caller's own key can send back; so do all under a limit on
    cost, because OpenAI's call takes no bound.
    """
    from server.history.compaction import compacted, summarising
    from server.history.truncation import opener
    from server.history.turns import turn_of
    from server.wires.responses import ResponseStream

    origin = origin_of(request)
    runtime = runtime_of(request)
    asked = body.model_copy(update={"background": None, "stream": None})
    turn = await turn_of(runtime, asked, origin.caller, origin.trace)
    chat = await turn.chat()
    unknown = body.model_extra or {}
    # The summary has no other part.
    lost = tuple(name for name in chat.left_out if name.startswith("input") or name in unknown)
    job = chat_job(summarising(chat, natively=True), origin)
    if _is_limited(runtime, job.facts):
        job = chat_job(summarising(chat, natively=False), origin)
    job = replace(job, left_out=lost)
    response, headers = await whole(
        request,
        job,
        lambda: TranslatedAssembler(turn.translation(), whole=ResponseStream.response),
        opener(asked.truncation, origin),
    )
    if response.get("object") == "response.compaction":
        return json_response(response, headers=headers)
    answer = await compacted(runtime.storage, origin.caller, turn.items(), response)
    return json_response(answer, headers=headers)


def _is_limited(runtime: Runtime, facts: Facts) -> bool:
    """Whether a limit on cost applies to a request."""
    spend = runtime.spend
    limits = (facts.intent.max_cost, spend.request_cap(facts.key), spend.left(facts.key))
    return any(limit is not None for limit in limits)
