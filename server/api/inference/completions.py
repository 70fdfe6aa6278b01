"""POST /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.streams.assemble import ChatAssembler, CompletionAssembler
from backends.wire.answers import ChatCompletion, ChatCompletionChunk, Completion
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from catalog.types import Json
from server.answers.sound import with_sound, with_texts
from server.answers.streams import ChunkEncoder, stream_events, usage_wanted, with_running_usage
from server.answers.whole import answer_json, json_response, whole
from server.edge.callers import caller_of, origin_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.functions import as_function_call
from server.history.chats import ChatKeeper, KeptChunks, without_store
from server.history.files import names_objects, with_uploads
from server.jobs import KEPT, chat_job, completion_job

router = APIRouter(tags=["completions"])


@route(
    router,
    "POST",
    "/v1/chat/completions",
    Contract(reads=ChatRequest, answers=ChatCompletion, streams=ChatCompletionChunk, calls_model=True),
)
async def create_chat_completion(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation: whole, or as a stream of events. It is kept with ``store: true``."""
    include_usage = usage_wanted(body.stream, body.stream_options)
    wants_store = body.store is True
    keeps = wants_store and runtime_of(request).storage.settings.store != "never"
    if wants_store and not keeps:
        body = without_store(body)
    body = with_texts(body)
    job = chat_job(body, origin_of(request), kept=KEPT if keeps else ())
    of_functions = job.request is not body and not body.tools
    if names_objects(body):
        job = await with_uploads(job, body, origin_of(request), runtime_of(request))
    encoder = FunctionCallEncoder if of_functions else ChunkEncoder
    assembler = FunctionCallAssembler if of_functions else ChatAssembler
    keeper: ChatKeeper | None = None
    if keeps:
        keeper = ChatKeeper(runtime_of(request).storage, caller_of(request), job.trace, body)
    elif wants_store:
        job = replace(job, left_out=(*job.left_out, "store"))
    job, opens = with_sound(runtime_of(request), job, caller_of(request), origin_of(request))
    if body.stream:
        told = with_running_usage(
            encoder(include_usage=include_usage), body.stream_options, job.facts.prompt_tokens
        )
        return await stream_events(request, job, told if keeper is None else KeptChunks(told, keeper), opens)
    completion, headers = await whole(request, job, assembler, opens)
    if not wants_store:
        return json_response(completion, headers=headers)
    if keeper is None:
        completion["store"] = False
    if keeper is None or not await keeper.keep(completion):
        dropped = headers.get("x-roundhouse-dropped")
        if dropped is None or "store" not in dropped.split(", "):
            headers = {**headers, "x-roundhouse-dropped": f"{dropped}, store" if dropped else "store"}
    return json_response(completion, headers=headers)


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
