"""POST /v1/score and /score: scores of pairs of texts, in vLLM's shape. Source: vLLM's page on its score API."""

from __future__ import annotations

import time
from typing import Annotated, Literal, NotRequired

from fastapi import APIRouter, Request
from pydantic import AliasChoices, Field, StringConstraints, ValidationError
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.answers import InputUsage
from backends.wire.common import MAX_TEXT, Identifier, ModelName, WireModel
from backends.wire.rerank import MAX_DOCUMENTS, PairedRerank
from catalog.errors import InvalidRequest
from catalog.types import Json
from server.answers.whole import SingleItem, answer_json
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.edge.json_body import from_validation
from server.jobs import score_job

router = APIRouter(tags=["rerank"])
ScoredText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]
ScoredTexts = ScoredText | Annotated[list[ScoredText], Field(min_length=1, max_length=MAX_DOCUMENTS)]


class ScoreRequest(WireModel):
    """One query and its texts, or as many queries as texts. vLLM's other names for the two are read too."""

    model: ModelName = "auto"
    text_1: ScoredTexts = Field(validation_alias=AliasChoices("text_1", "queries", "data_1"))
    text_2: ScoredTexts = Field(validation_alias=AliasChoices("text_2", "documents", "items", "data_2"))
    user: Identifier | None = None

    def pairs(self) -> list[tuple[str, str]]:
        """The pairs to score. Raises InvalidRequest where the numbers of texts do not fit."""
        first = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        second = [self.text_2] if isinstance(self.text_2, str) else self.text_2
        if len(first) == 1:
            first = first * len(second)
        if len(first) != len(second):
            raise InvalidRequest(
                f"text_1 has {len(first)} texts and text_2 has {len(second)}; give one in text_1, or as many.",
                param="text_1",
            )
        return list(zip(first, second, strict=True))


class PairScore(TypedDict):
    index: int
    object: Literal["score"]
    score: float


class ScoreList(TypedDict):
    """One score in [0, 1] per pair, in order. ``scoring`` names the scores' source."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[PairScore]
    scoring: NotRequired[str]
    truncated: NotRequired[list[int]]
    usage: NotRequired[InputUsage]


@route(router, "POST", "/v1/score", Contract(reads=ScoreRequest, answers=ScoreList, calls_model=True))
async def create_score(request: Request, body: ScoreRequest) -> Response:
    """Score pairs of texts by how well the second answers the first."""
    job = score_job(_paired(body), origin_of(request))

    def shape(answer: Json) -> Json:
        data = [
            {"index": place, "object": "score", "score": score} for place, score in enumerate(answer["scores"])
        ]
        head = {
            "id": f"score-{job.trace}",
            "object": "list",
            "created": int(time.time()),
            "model": answer["model"],
        }
        more = {name: answer[name] for name in ("scoring", "truncated", "usage") if answer.get(name) is not None}
        return {**head, "data": data, **more}

    return await answer_json(request, job, SingleItem, shape)


def _paired(body: ScoreRequest) -> PairedRerank:
    """The pairs as a rerank. Raises InvalidRequest."""
    pairs, fields = body.pairs(), _rest(body)
    try:
        return PairedRerank.of(pairs, model=body.model, **fields)
    except ValidationError as error:
        raise from_validation(error, fields) from None


def _rest(body: ScoreRequest) -> Json:
    """The fields that every rerank gets: those that this endpoint does not know."""
    rest = dict(body.model_extra or {})
    if body.user is not None:
        rest["user"] = body.user
    return rest
