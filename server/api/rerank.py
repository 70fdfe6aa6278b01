"""POST /v1/rerank, /rerank and /v2/rerank: one answer that Cohere's and Jina's clients both read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.base import Rerank, Upstream
from backends.wire.rerank import RerankRequest
from catalog.errors import InvalidRequest
from catalog.model import Model
from catalog.types import Json
from routing.calling.dispatcher import Job, once
from routing.reading.requests import read_rerank
from server.answers.whole import One, answer_json, key_of, trace_of
from server.edge.bodies import read_json
from server.edge.routes import DirectRoute

router = APIRouter(tags=["rerank"], route_class=DirectRoute)


@router.post("/v1/rerank")
@router.post("/rerank", include_in_schema=False)
@router.post("/v2/rerank", include_in_schema=False)
async def create_rerank(request: Request) -> Response:
    """Order documents by how relevant they are to a query; scores are in [0, 1]."""
    body = await read_json(request, RerankRequest)
    for position, document in enumerate(body.documents):
        if isinstance(document, dict) and not (isinstance(document.get("text"), str) and document["text"]):
            raise InvalidRequest(
                "A document is a text, or an object with a 'text' that is not empty.",
                param=f"documents[{position}]",
            )

    def call(backend: Rerank, upstream: Upstream, model: Model) -> AsyncIterator[Json]:
        del model
        return once(backend.rerank(upstream, body))

    job: Job[Json] = Job(
        facts=read_rerank(body, key=key_of(request), headers=request.headers),
        protocol=Rerank,
        request=body,
        call=call,
        trace=trace_of(request),
    )
    return await answer_json(request, job, One(), lambda answer: shaped(answer, body, trace_of(request)))


def shaped(answer: Json, body: RerankRequest, trace: str) -> Json:
    """Best first, at most ``top_n``, with the documents when asked for.

    ``meta`` is Cohere's, ``usage`` and ``model`` are Jina's. A worker of ours says by ``scoring`` what its scores
    come from, and by ``truncated`` which documents it cut, where that was asked for.
    """
    ranked = sorted(answer["results"], key=lambda result: (-result["relevance_score"], result["index"]))
    results = [_result(item, body) for item in ranked[: body.top_n]]
    shape: Json = {"id": f"rerank-{trace}", "object": "list", "results": results}
    if "model" in answer:
        shape["model"] = answer["model"]
    for name in ("usage", "scoring", "truncated"):
        if answer.get(name) is not None:
            shape[name] = answer[name]
    shape["meta"] = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return shape


def _result(item: Json, body: RerankRequest) -> Json:
    result: dict[str, Any] = {"index": item["index"], "relevance_score": item["relevance_score"]}
    if body.return_documents:
        document = body.documents[item["index"]]
        result["document"] = {"text": document} if isinstance(document, str) else document
    return result
