"""POST /v1/embeddings."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.wire.answers import EmbeddingList
from backends.wire.embeddings import EmbeddingRequest
from server.answers.whole import SingleItem, answer_json
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.jobs import embedding_job

router = APIRouter(tags=["embeddings"])


@route(router, "POST", "/v1/embeddings", Contract(reads=EmbeddingRequest, answers=EmbeddingList, calls_model=True))
async def create_embeddings(request: Request, body: EmbeddingRequest) -> Response:
    """Embed each input; vectors are in the inputs' order."""
    return await answer_json(request, embedding_job(body, origin_of(request)), SingleItem)
