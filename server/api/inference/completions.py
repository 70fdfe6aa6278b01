"""POST /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.streams.assemble import ChatAssembler, CompletionAssembler
from backends.wire.answers import ChatCompletion, ChatCompletionChunk, Completion
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from catalog.types import Json
from server.answers.streams import ChunkEncoder, stream_events, usage_wanted, with_running_usage
from server.answers.whole import answer_json
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.functions import as_function_call
from server.jobs import chat_job, completion_job

router = APIRouter(tags=["completions"])


@route(
    router,
    "POST",
    "/v1/chat/completions",
    Contract(reads=ChatRequest, answers=ChatCompletion, streams=ChatCompletionChunk, calls_model=True),
)
async def create_chat_completion(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation: whole, or as a stream of events."""
    include_usage = usage_wanted(body.stream, body.stream_options)
    job = chat_job(body, origin_of(request))
    of_functions = job.request is not body and not body.tools
    if body.stream:
        encoder = FunctionCallEncoder if of_functions else ChunkEncoder
        told = encoder(include_usage=include_usage)
        return await stream_events(
            request, job, with_running_usage(told, body.stream_options, job.facts.prompt_tokens)
        )
    return await answer_json(request, job, FunctionCallAssembler if of_functions else ChatAssembler)


class FunctionCallEncoder(ChunkEncoder):
    """Encodes chunks for a caller of functions."""

    def encode(self, item: Json) -> bytes:
        return super().encode(as_function_call(item))


class FunctionCallAssembler(ChatAssembler):
    """Assembles an answer for a caller of functions."""

    def add(self, chunk: Json) -> None:
        super().add(as_function_call(chunk))


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
        told = ChunkEncoder(include_usage=include_usage)
        return await stream_events(
            request, job, with_running_usage(told, body.stream_options, job.facts.prompt_tokens)
        )
    return await answer_json(request, job, CompletionAssembler)
