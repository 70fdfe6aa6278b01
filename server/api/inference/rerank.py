"""POST /v1/rerank, /rerank and /v2/rerank: one answer that Cohere's and Jina's clients both read, and TEI's."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.wire.answers import RerankList
from backends.wire.rerank import RerankRequest
from catalog.types import Json
from server.answers.whole import SingleItem, answer_json
from server.edge.bodies import read_either
from server.edge.callers import origin_of, with_stand_in
from server.edge.contracts import Contract, route
from server.edge.errors import TEI
from server.jobs import rerank_job
from server.scope import WIRE
from server.wires.tei.answers import ranks
from server.wires.tei.requests import TeiRank, TeiRerankRequest

router = APIRouter(tags=["rerank"])


@route(
    router,
    "POST",
    "/v1/rerank",
    Contract(reads=RerankRequest, own_reading=True, answers=RerankList | list[TeiRank], calls_model=True),
    "/rerank",
    "/v2/rerank",
)
async def create_rerank(request: Request) -> Response:
    """Order documents by their relevance to a query; scores are in [0, 1].

    A body with ``texts`` is TEI's, and gets a list of ``index`` and ``score``.
    """
    body = with_stand_in(request, await read_either(request, partial(_kind, request)))
    if isinstance(body, TeiRerankRequest):
        tei = body
        return await answer_json(
            request, rerank_job(tei.rerank(), origin_of(request)), SingleItem, lambda answer: ranks(answer, tei)
        )
    job = rerank_job(body, origin_of(request))
    return await answer_json(request, job, SingleItem, lambda answer: shaped(answer, body, job.trace))


def _kind(request: Request, body: bytes) -> type[RerankRequest] | type[TeiRerankRequest]:
    """The type of the body, whose errors are TEI's too if it is."""
    if b'"texts"' not in body or b'"documents"' in body:
        return RerankRequest
    request.scope[WIRE] = TEI
    return TeiRerankRequest


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
