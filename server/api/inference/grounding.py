"""POST /v1/ground: where things are in a picture."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.grounding.request import GroundList, GroundRequest
from catalog.errors import InvalidRequest
from server.answers.whole import SingleItem, answer_json
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.jobs import ground_job

router = APIRouter(tags=["grounding"])


@route(router, "POST", "/v1/ground", Contract(reads=GroundRequest, answers=GroundList, calls_model=True))
async def create_grounding(request: Request, body: GroundRequest) -> Response:
    """Find what a phrase, or several, means in a picture: boxes in the pixels of the upright picture."""
    try:
        return await answer_json(request, ground_job(body, origin_of(request)), SingleItem)
    except InvalidRequest as error:  # it speaks of the chat that the request became
        if (error.param or "").startswith("messages"):
            error.param = "image"
        error.message = error.message.replace("this chat request", "this grounding request", 1)
        raise
