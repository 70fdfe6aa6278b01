"""POST /tokenize and /detokenize: a local model's own tokenizer; the round trip is exact."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.base import Tokenize, Upstream
from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from catalog.model import Model
from catalog.types import Json
from routing.calling.dispatcher import Job, once
from routing.reading.requests import read_tokens
from server.answers.whole import One, answer_json, key_of, trace_of
from server.edge.bodies import read_json
from server.edge.routes import DirectRoute

router = APIRouter(tags=["tokens"], route_class=DirectRoute)


@router.post("/tokenize")
@router.post("/v1/tokenize", include_in_schema=False)
async def tokenize(request: Request) -> Response:
    """Token ids of a text."""
    body = await read_json(request, TokenizeRequest)

    def call(backend: Tokenize, upstream: Upstream, model: Model) -> AsyncIterator[Json]:
        del model
        return once(backend.tokenize(upstream, body))

    job: Job[Json] = Job(
        facts=read_tokens(body, key=key_of(request), headers=request.headers),
        protocol=Tokenize,
        request=body,
        call=call,
        trace=trace_of(request),
    )
    return await answer_json(request, job, One())


@router.post("/detokenize")
@router.post("/v1/detokenize", include_in_schema=False)
async def detokenize(request: Request) -> Response:
    """The text of token ids."""
    body = await read_json(request, DetokenizeRequest)

    def call(backend: Tokenize, upstream: Upstream, model: Model) -> AsyncIterator[Json]:
        del model
        return once(backend.detokenize(upstream, body))

    job: Job[Json] = Job(
        facts=read_tokens(body, key=key_of(request), headers=request.headers),
        protocol=Tokenize,
        request=body,
        call=call,
        trace=trace_of(request),
    )
    return await answer_json(request, job, One())
