"""POST /v1/moderations: content judged by OpenAI's categories."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.wire.moderation.request import ModerationList, ModerationRequest
from server.answers.whole import SingleItem, answer_json
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.jobs import moderation_job

router = APIRouter(tags=["moderations"])


@route(
    router,
    "POST",
    "/v1/moderations",
    Contract(reads=ModerationRequest, answers=ModerationList, calls_model=True),
)
async def create_moderation(request: Request, body: ModerationRequest) -> Response:
    """Judge content: by a provider's moderation, a configured classifier, or else a local chat model's yes or no.

    The answer's ``model`` says which judged; ``scoring`` is there where it is no moderator.
    """
    return await answer_json(request, moderation_job(body, origin_of(request)), SingleItem)
