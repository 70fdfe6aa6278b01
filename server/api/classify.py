"""POST /v1/classify: texts under labels, in the shape that Jina's clients read."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.base import Classify, Upstream
from backends.wire.classify import ClassifyRequest, classification
from catalog.errors import InvalidRequest
from catalog.model import Model
from catalog.types import Json
from routing.calling.dispatcher import Job, once
from routing.reading.requests import read_classification
from server.answers.whole import One, answer_json, key_of, trace_of
from server.edge.bodies import read_json
from server.edge.routes import DirectRoute

router = APIRouter(tags=["classify"], route_class=DirectRoute)


@router.post("/v1/classify")
async def create_classification(request: Request) -> Response:
    """Say for each text how likely each label is, and which is the likeliest; a text's scores sum to 1."""
    body = await read_json(request, ClassifyRequest)
    for position, text in enumerate(body.texts()):
        if not text:
            raise InvalidRequest(
                "An input is a text, or an object with a 'text' that is not empty.", param=f"input[{position}]"
            )

    def call(backend: Classify, upstream: Upstream, model: Model) -> AsyncIterator[Json]:
        del model
        return once(backend.classify(upstream, body))

    job: Job[Json] = Job(
        facts=read_classification(body, key=key_of(request), headers=request.headers),
        protocol=Classify,
        request=body,
        call=call,
        trace=trace_of(request),
    )
    return await answer_json(request, job, One(), lambda answer: shaped(answer, body))


def shaped(answer: Json, body: ClassifyRequest) -> Json:
    """A list of ``classification`` objects; ``truncated`` are the texts cut, where that was asked for."""
    shape: Json = {
        "object": "list",
        "data": [classification(row["index"], row["scores"], body.labels) for row in answer["data"]],
        "scoring": answer["scoring"],
    }
    for name in ("model", "usage", "truncated"):
        if answer.get(name) is not None:
            shape[name] = answer[name]
    return shape
