"""POST /v1/embeddings."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.base import Embed, Upstream
from backends.wire.embeddings import EmbeddingRequest
from catalog.model import Model
from catalog.types import Json
from routing.calling.dispatcher import Job, once
from routing.reading.requests import read_embedding
from server.answers.whole import One, answer_json, key_of, trace_of
from server.edge.bodies import read_json
from server.edge.routes import DirectRoute

router = APIRouter(tags=["embeddings"], route_class=DirectRoute)


@router.post("/v1/embeddings")
async def create_embeddings(request: Request) -> Response:
    """One vector per input, in the inputs' order."""
    body = await read_json(request, EmbeddingRequest)

    def call(backend: Embed, upstream: Upstream, model: Model) -> AsyncIterator[Json]:
        del model
        return once(backend.embed(upstream, body))

    job: Job[Json] = Job(
        facts=read_embedding(body, key=key_of(request), headers=request.headers),
        protocol=Embed,
        request=body,
        call=call,
        trace=trace_of(request),
    )
    return await answer_json(request, job, One())
