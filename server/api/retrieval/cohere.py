"""POST /v2/embed and /v1/embed: embeddings for Cohere's clients."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from server.answers.whole import SingleItem, answer_json
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.jobs import mixed_embedding_job, vectors_job
from server.wires.cohere.embed import CohereEmbedAnswer, CohereEmbedRequest, embedded

router = APIRouter(tags=["cohere"])
_CONTRACT = Contract(reads=CohereEmbedRequest, answers=CohereEmbedAnswer, calls_model=True, bare=False)


@route(router, "POST", "/v2/embed", _CONTRACT)
async def cohere_embed(request: Request, body: CohereEmbedRequest) -> Response:
    """Embed texts for Cohere's version 2: vectors by form."""
    return await _embed(request, body, 2)


@route(router, "POST", "/v1/embed", _CONTRACT)
async def cohere_embed_v1(request: Request, body: CohereEmbedRequest) -> Response:
    """Embed texts for Cohere's version 1: plain vectors, unless forms are asked for."""
    return await _embed(request, body, 1)


async def _embed(request: Request, body: CohereEmbedRequest, version: Literal[1, 2]) -> Response:
    asked = body.embedding()
    origin = origin_of(request)
    if isinstance(asked, MixedEmbeddingRequest):
        job = mixed_embedding_job(asked, origin)
    else:
        job = vectors_job(asked, origin)
    return await answer_json(
        request, job, SingleItem, lambda answer: embedded(answer, body, job.trace, version=version)
    )
