"""Text Embeddings Inference's endpoints; its /rerank is at Cohere's and Jina's, its /tokenize at llama-server's.

The clients of Hugging Face, Haystack, LangChain and LlamaIndex ask them.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from backends.wire.common import ModelName
from backends.wire.embeddings import MAX_INPUTS
from catalog.errors import CapabilityMismatch
from catalog.model import Capability
from routing.facts import Facts, Task
from routing.reading.intent import is_auto
from server.answers.whole import SingleItem, answer_json, json_response
from server.edge.callers import caller_of, origin_of, with_stand_in
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of, services_of
from server.jobs import classification_job, permitted, texts_tokens_job, vectors_job
from server.wires.tei.answers import predictions, similarities, vectors
from server.wires.tei.requests import (
    TeiDecodeRequest,
    TeiEmbedRequest,
    TeiInfo,
    TeiPrediction,
    TeiPredictRequest,
    TeiSimilarityRequest,
)

router = APIRouter(tags=["text-embeddings-inference"])


@route(router, "POST", "/embed", Contract(reads=TeiEmbedRequest, answers=list[list[float]], calls_model=True), "/")
async def tei_embed(request: Request, body: TeiEmbedRequest) -> Response:
    """Embed texts: one vector of length 1 for each. Hugging Face's client asks the server's root."""
    return await answer_json(request, vectors_job(body.embedding(), origin_of(request)), SingleItem, vectors)


@route(router, "POST", "/similarity", Contract(reads=TeiSimilarityRequest, answers=list[float], calls_model=True))
async def tei_similarity(request: Request, body: TeiSimilarityRequest) -> Response:
    """Compare a text with others: the cosine of their vectors for each."""
    job = vectors_job(body.embedding(), origin_of(request))
    return await answer_json(request, job, SingleItem, similarities)


@route(
    router,
    "POST",
    "/predict",
    Contract(reads=TeiPredictRequest, answers=list[TeiPrediction] | list[list[TeiPrediction]], calls_model=True),
)
async def tei_predict(request: Request, body: TeiPredictRequest) -> Response:
    """Classify texts by the labels of a trained classifier, best first."""
    job = classification_job(body.classification(), origin_of(request))
    return await answer_json(request, job, SingleItem, lambda answer: predictions(answer, batch=body.is_batch))


@route(router, "POST", "/decode", Contract(reads=TeiDecodeRequest, answers=list[str], calls_model=True))
async def tei_decode(request: Request, body: TeiDecodeRequest) -> Response:
    """Join the tokens of texts: one text for each list."""
    job = texts_tokens_job(body.lists(), origin_of(request))
    return await answer_json(request, job, SingleItem, lambda answer: answer["texts"])


def _refuse(path: str, reason: str) -> None:
    async def refuse(request: Request) -> Response:
        del request
        raise CapabilityMismatch(reason)

    refuse.__name__ = f"refuse_{path[1:]}"
    route(router, "POST", path, Contract(hidden=True))(refuse)


_refuse("/embed_sparse", "No engine here makes sparse vectors; POST /embed makes dense ones.")
_refuse("/embed_all", "Vectors are those of whole texts here, not of each token; POST /embed makes them.")


_ASSUMED_LENGTH = 512
"""Tokens of the longest text of a model whose row does not say."""


class InfoQuery(BaseModel):
    """``model`` is the embedding model to describe; ``auto`` is the one that a request without a name gets."""

    model_config = ConfigDict(frozen=True)
    model: ModelName = "auto"


@route(router, "GET", "/info", Contract(query=InfoQuery, answers=TeiInfo, raises=(CapabilityMismatch,)))
async def tei_info(request: Request, query: InfoQuery) -> Response:
    """Describe the embedding model as TEI describes the one that it serves."""
    runtime = runtime_of(request)
    query = with_stand_in(request, query)
    facts = Facts(capability=Capability.EMBED, requested=query.model, task=Task.EMBED)
    facts = permitted(facts, caller_of(request), runtime.catalog)
    if not is_auto(query.model):
        runtime.catalog.resolve(query.model)
    plan = runtime.dispatcher.explain(facts)
    if not plan.candidates:
        raise CapabilityMismatch("There is no embedding model to describe.")
    row = plan.candidates[0].model
    limits = services_of(request).settings.server.limits
    longest = row.limits.max_input_tokens or row.limits.context_window
    kind: dict[str, Any] = {"embedding": {"pooling": row.options.get("pooling", "mean")}}
    return json_response(
        {
            "model_id": row.id,
            "model_sha": None,
            "model_dtype": (row.size.quantization or "unknown").lower(),
            "model_type": kind,
            "max_concurrent_requests": limits.concurrency,
            "max_input_length": longest,
            "max_batch_tokens": MAX_INPUTS * (longest or _ASSUMED_LENGTH),
            "max_batch_requests": None,
            "max_client_batch_size": MAX_INPUTS,
            "auto_truncate": False,
            "tokenization_workers": 1,
            "version": request.app.version,
            "sha": None,
            "docker_label": None,
        }
    )
