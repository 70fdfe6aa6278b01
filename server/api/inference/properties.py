"""GET /props, /tokenizer_info and /version: a model and this server, as llama-server and vLLM describe them."""

from __future__ import annotations

from typing import Any, NotRequired

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.common import ModelName
from backends.wire.tokens import PropertiesRequest
from catalog.types import Json
from server.answers.whole import SingleItem, answer_json, json_response
from server.edge.callers import origin_of
from server.edge.contracts import Contract, route
from server.jobs import properties_job

router = APIRouter(tags=["properties"])


class PropertiesQuery(BaseModel):
    """``model`` is a local chat model; ``auto`` is the one that the router would choose."""

    model_config = ConfigDict(frozen=True)
    model: ModelName = "auto"


class WorkerProperties(TypedDict):
    """llama-server's properties of a model, without the places of its files."""

    model_alias: str
    default_generation_settings: NotRequired[dict[str, Any]]
    total_slots: NotRequired[int]
    chat_template: NotRequired[str]
    chat_template_caps: NotRequired[dict[str, Any]]
    modalities: NotRequired[dict[str, bool]]
    bos_token: NotRequired[str]
    eos_token: NotRequired[str]
    build_info: NotRequired[str]
    model: NotRequired[str]


@route(router, "GET", "/props", Contract(query=PropertiesQuery, answers=WorkerProperties, calls_model=True))
async def get_props(request: Request, query: PropertiesQuery) -> Response:
    """Describe a local model as llama-server does; one that is not loaded is loaded for it."""
    job = properties_job(PropertiesRequest(model=query.model), origin_of(request))
    return await answer_json(
        request, job, SingleItem, lambda answer: {"model_alias": answer.get("model"), **answer}
    )


class TokenizerInfo(TypedDict):
    """vLLM's facts about a tokenizer."""

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    chat_template: str | None
    model_max_length: int | None
    model: NotRequired[str]


@route(router, "GET", "/tokenizer_info", Contract(query=PropertiesQuery, answers=TokenizerInfo, calls_model=True))
async def get_tokenizer_info(request: Request, query: PropertiesQuery) -> Response:
    """Describe the tokenizer of a local model as vLLM does, with its special tokens and chat template."""
    job = properties_job(PropertiesRequest(model=query.model), origin_of(request))
    return await answer_json(request, job, SingleItem, _tokenizer)


def _tokenizer(answer: Json) -> Json:
    context = (answer.get("default_generation_settings") or {}).get("n_ctx")
    return {
        "tokenizer_class": "llama.cpp",
        "bos_token": answer.get("bos_token") or None,
        "eos_token": answer.get("eos_token") or None,
        "pad_token": None,
        "chat_template": answer.get("chat_template"),
        "model_max_length": context,
        "model": answer.get("model"),
    }


class ServerVersion(TypedDict):
    version: str


@route(router, "GET", "/version", Contract(answers=ServerVersion))
async def get_version(request: Request) -> Response:
    """The server's version."""
    return json_response({"version": request.app.version})
