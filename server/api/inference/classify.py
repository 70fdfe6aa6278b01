"""POST /v1/classify: texts under labels, in the shape that Jina's clients read."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.wire.answers import ClassificationList
from backends.wire.classify import ClassifyRequest, classification
from catalog.types import Json
from server.answers.whole import SingleItem, answer_json
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.jobs import classification_job

router = APIRouter(tags=["classify"])


@route(
    router, "POST", "/v1/classify", Contract(reads=ClassifyRequest, answers=ClassificationList, calls_model=True)
)
async def create_classification(request: Request, body: ClassifyRequest) -> Response:
    """Score each label for each text; a text's scores sum to 1 unless a classifier judges each label alone."""
    job = classification_job(body, origin_of(request))
    return await answer_json(request, job, SingleItem, shaped)


def shaped(answer: Json) -> Json:
    """A list of ``classification`` objects; ``truncated`` are the texts cut, where that was asked for."""
    shape: Json = {
        "object": "list",
        "data": [classification(row["index"], row["scores"], answer["labels"]) for row in answer["data"]],
        "scoring": answer["scoring"],
    }
    for name in ("model", "usage", "truncated"):
        if answer.get(name) is not None:
            shape[name] = answer[name]
    return shape
