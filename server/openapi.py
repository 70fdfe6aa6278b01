"""``/openapi.json``: the handlers read their bodies themselves, so what they read is told here."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.chat import ChatRequest
from backends.wire.classify import ClassifyRequest
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.images import ImageRequest
from backends.wire.messages import CountTokensRequest, MessagesRequest
from backends.wire.rerank import RerankRequest
from backends.wire.responses import ResponsesRequest
from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from catalog.types import Json
from server.api.admin import Pin
from server.api.models import LoadRequest
from server.api.routing import Priors, Report

BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/messages": MessagesRequest,
    "/v1/messages/count_tokens": CountTokensRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/rerank": RerankRequest,
    "/v1/classify": ClassifyRequest,
    "/v1/audio/speech": SpeechRequest,
    "/v1/images/generations": ImageRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
    "/v1/models/{model_id}/load": LoadRequest,
    "/v1/route": ChatRequest,
    "/v1/outcomes": Report,
    "/v1/admin/priors": Priors,
    "/v1/admin/pins": Pin,
}
FORMS = ("/v1/audio/transcriptions", "/v1/audio/translations")


def describe(app: FastAPI) -> Json:
    """The OpenAPI document, made when it is first asked for."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, summary=app.summary
    )
    models: tuple[type[BaseModel], ...] = (*dict.fromkeys(BODIES.values()), TranscriptionRequest)
    _, schemas = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
    for path, model in BODIES.items():
        _operation(document, path)["requestBody"] = _body("application/json", model)
    for path in FORMS:
        _operation(document, path)["requestBody"] = _body("multipart/form-data", TranscriptionRequest)
    app.openapi_schema = document
    return document


def _operation(document: Json, path: str) -> Json:
    operation: Json = document["paths"][path]["post"]
    return operation


def _body(media_type: str, model: type[BaseModel]) -> Json:
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"required": model is not LoadRequest, "content": {media_type: {"schema": reference}}}
