"""POST /tokenize and /detokenize: a local model's own tokenizer; the round trip is exact."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.base import Json, Tokenize, Upstream
from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from catalog.model import Model
from routing.dispatch import Job, once
from routing.read import read_tokens
from server.answering import One, answer_json, key_of, trace_of
from server.limits import read_json
from server.routes import DirectRoute

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
