"""POST /tokenize and /detokenize: a local model's own tokenizer; the round trip is exact."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.wire.answers import DetokenizedText, TokenList
from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from server.answers.whole import SingleItem, answer_json
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.jobs import detokenize_job, tokenize_job

router = APIRouter(tags=["tokens"])


@route(
    router,
    "POST",
    "/tokenize",
    Contract(reads=TokenizeRequest, answers=TokenList, calls_model=True),
    "/v1/tokenize",
)
async def tokenize(request: Request, body: TokenizeRequest) -> Response:
    """Split a text into token ids."""
    return await answer_json(request, tokenize_job(body, origin_of(request)), SingleItem)


@route(
    router,
    "POST",
    "/detokenize",
    Contract(reads=DetokenizeRequest, answers=DetokenizedText, calls_model=True),
    "/v1/detokenize",
)
async def detokenize(request: Request, body: DetokenizeRequest) -> Response:
    """Join token ids to a text."""
    return await answer_json(request, detokenize_job(body, origin_of(request)), SingleItem)
