"""POST /v1/embeddings: of texts, and of pictures."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.wire.answers import EmbeddingList
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from server.answers.whole import SingleItem, answer_json
from server.edge.bodies import read_either
from server.edge.callers import origin_of, with_stand_in
from server.edge.contracts import Contract, route
from server.jobs import embedding_job, mixed_embedding_job

router = APIRouter(tags=["embeddings"])


@route(
    router,
    "POST",
    "/v1/embeddings",
    Contract(reads=EmbeddingRequest, own_reading=True, answers=EmbeddingList, calls_model=True),
)
async def create_embeddings(request: Request) -> Response:
    """Embed each input; vectors are in the inputs' order.

    An input may also be an object: a part of a chat's message (``text`` or ``image_url``), or several in
    ``content``. ``messages``, a chat, become one vector.
    """
    body = with_stand_in(request, await read_either(request, _kind))
    if isinstance(body, MixedEmbeddingRequest):
        return await answer_json(request, mixed_embedding_job(body, origin_of(request)), SingleItem)
    return await answer_json(request, embedding_job(body, origin_of(request)), SingleItem)


_OBJECTS = (b'"image"', b'"image_url"', b'"messages"', b'"content"', b'"text"')
"""Names of fields; within a text, the quotation mark behind one would be escaped."""


def _kind(body: bytes) -> type[EmbeddingRequest] | type[MixedEmbeddingRequest]:
    """The type of the body; one that may hold objects is read as one, whatever it turns out to be."""
    return MixedEmbeddingRequest if any(name in body for name in _OBJECTS) else EmbeddingRequest
