"""POST /v1/messages: Anthropic's Messages API in front of every chat model.

The translation is imported by the first request, because most servers are never asked in this language.
"""

from __future__ import annotations

from functools import partial

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.registry import counts_tokens
from backends.wire.answers import AnthropicMessage, MessageEvent, TokenCount
from backends.wire.messages import CountTokensRequest, MessagesRequest
from backends.workers.pool import WorkerState
from catalog.errors import InvalidRequest, RoundhouseError
from catalog.model import Capability, Model, UpstreamSource
from catalog.types import Json
from routing.calling.job import Job
from routing.choosing.policy import is_auto
from routing.facts import Facts
from server.answers.streams import stream_events
from server.answers.whole import answer_json, json_response
from server.edge.callers import caller_of, origin_of
from server.edge.contracts import Contract, route
from server.edge.disconnect import Guard
from server.edge.services import runtime_of, services_of
from server.jobs import chat_job, count_job, permitted
from server.runtime import Runtime
from server.wires.translation import TranslatedAssembler, TranslatedEncoder
from server.wires.web_search import can_search

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

    job = _job(request, body)

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
    runtime = runtime_of(request)
    job = _job(request, body)
    facts = permitted(job.facts, caller_of(request), runtime.catalog)
    if not is_auto(facts.requested):
        runtime.catalog.resolve(facts.requested)
    counter = _counter(runtime, facts)
    if counter is not None:
        try:
            async with (
                Guard(request, services_of(request).in_flight),
                runtime.dispatcher.open(count_job(job, counter.id)) as answer,
            ):
                async for counted in answer:
                    return json_response({"input_tokens": counted["input_tokens"]}, headers=answer.headers())
        except InvalidRequest:
            raise
        except RoundhouseError:
            structlog.get_logger().warning("tokens estimated, because the model could not count", model=counter.id)
    return json_response({"input_tokens": facts.prompt_tokens}, headers={"x-roundhouse-estimate": "true"})


def _job(request: Request, body: MessagesRequest | CountTokensRequest) -> Job[Json]:
    from server.wires.messages import to_chat

    searches = partial(can_search, runtime=runtime_of(request), caller=caller_of(request))
    return chat_job(to_chat(body, request.headers, request.query_params, searches=searches), origin_of(request))


def _counter(runtime: Runtime, facts: Facts) -> Model | None:
    """The model that would answer, if its tokenizer counts here or its provider counts.

    A local one is loaded if the caller named it. Pictures and sounds are estimated for it, since only decoding
    tells their tokens.
    """
    plan = runtime.dispatcher.explain(facts)
    model = plan.candidates[0].model if plan.candidates else None
    if model is not None and isinstance(model.source, UpstreamSource):
        return model if counts_tokens(model, runtime.catalog) else None
    if facts.features & {Capability.VISION, Capability.AUDIO_INPUT, Capability.DOCUMENTS}:
        return None
    if model is None or model.engine != "llamacpp":
        return None
    workers = runtime.pool.snapshot().workers
    loaded = any(view.model == model.id and view.state is WorkerState.READY for view in workers)
    return model if loaded or not is_auto(facts.requested) else None
