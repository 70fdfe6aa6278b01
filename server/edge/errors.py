"""Turns every kind of failure into OpenAI's error object, or Anthropic's or Ollama's for their clients."""

from __future__ import annotations

from http import HTTPStatus

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from catalog.errors import (
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RoundhouseError,
    UnsupportedParameter,
)
from catalog.types import Json
from server.scope import REQUEST_ID, WIRE

ANTHROPIC_PATHS = ("/v1/messages", "/messages")
"""The beginnings of the paths of Anthropic's API."""
OLLAMA_PATHS = "/api/"
"""The beginning of the paths of Ollama's API."""
COHERE_PATHS = frozenset({"/v1/embed", "/v2/embed", "/v1/rerank", "/v2/rerank"})
"""Paths of Cohere's API. Jina's and other clients ask for /v1/rerank too, so errors have both shapes."""
TEI_PATHS = frozenset(
    {"/", "/embed", "/embed_all", "/embed_sparse", "/decode", "/predict", "/similarity", "/info"}
)
"""Paths of Text Embeddings Inference."""
TEI = "tei"
NOTHING_HERE = "There is nothing at this path. GET / tells where to look."
MAX_MESSAGE = 400
_NO_THREADS = {"error_code": "thread_unsupported_request", "unsupported": ["model"]}
"""Tells Anthropic's SDKs to send the whole conversation each time, as their tool runners then do."""
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def as_error(error: BaseException) -> RoundhouseError:
    """The typed error for any exception; a foreign one reveals nothing of its content."""
    if isinstance(error, RoundhouseError):
        return error
    if isinstance(error, HTTPException):
        return _from_http(error)
    return RoundhouseError("The server failed on this request. Its log has the reason under the request id.")


_MAY_PASS = frozenset({408, 409, 429})
"""Refusals of a request that may be answered later."""


def error_response(error: RoundhouseError, scope: Scope) -> Response:
    """The HTTP answer for an error of a request: in the shape of the client's API, by default OpenAI's."""
    if scope["path"].startswith(OLLAMA_PATHS):
        body = ollama_error(error)
    elif speaks_anthropic(scope) and (_is_anthropics(scope["path"]) or error.message == NOTHING_HERE):
        body = anthropic_error(error, request_id=scope[REQUEST_ID])
    elif scope["path"] in TEI_PATHS or scope.get(WIRE) == TEI:
        body = tei_error(error)
    else:
        body = error.to_body()
        if scope["path"] in COHERE_PATHS:
            body = {"id": scope[REQUEST_ID], "message": error.message, **body}
    headers = error.headers()
    if error.status < 500 and error.status not in _MAY_PASS:
        headers["x-should-retry"] = "false"  # OpenAI's and Anthropic's clients heed it
    return Response(
        orjson.dumps(body),
        status_code=error.status,
        headers=headers,
        media_type="application/json",
    )


def tei_error(error: RoundhouseError) -> Json:
    """The error of Text Embeddings Inference, as the clients of Hugging Face read it."""
    kind = {429: "Overloaded", 503: "Unhealthy"}.get(
        error.status, "Validation" if error.status < 500 else "Backend"
    )
    return {"error": error.message, "error_type": kind, "code": error.code}


def _is_anthropics(path: str) -> bool:
    """Whether Anthropic's API has this path, too: another path is of another API, whatever the headers say."""
    return path.startswith(ANTHROPIC_PATHS) or path.removeprefix("/v1").startswith(("/models", "/files"))


def speaks_anthropic(scope: Scope) -> bool:
    """Whether the client is one of Anthropic's API: by the path, or by the header that its SDKs always send."""
    return scope["path"].startswith(ANTHROPIC_PATHS) or any(
        name == b"anthropic-version" for name, _ in scope["headers"]
    )


def anthropic_error(error: RoundhouseError, *, request_id: str | None = None) -> Json:
    """Anthropic's error object, in an answer with the error's status and in an ``error`` event."""
    kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    if isinstance(error, InvalidRequest) and error.status == 400:
        kind = "invalid_request_error"
    elif isinstance(error, NotFound):
        kind = "not_found_error"
    told: Json = {"type": kind, "message": error.message}
    if isinstance(error, UnsupportedParameter) and error.param == "thread":
        told["details"] = _NO_THREADS
    elif isinstance(error, InvalidRequest) and error.inner is not None:
        told["details"] = error.inner
    body: Json = {"type": "error", "error": told}
    return {**body, "request_id": request_id} if request_id else body


def ollama_error(error: RoundhouseError) -> Json:
    """Ollama's error object, in an answer with the error's status and in a line of a stream."""
    return {"error": error.message}


def _from_http(error: HTTPException) -> RoundhouseError:
    if error.status_code == 404:
        return NotFound(NOTHING_HERE)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow")
        return MethodNotAllowed(
            "This path does not take this method" + (f"; it takes {allowed}." if allowed else ".")
        )
    if error.status_code == 413:
        return PayloadTooLarge("The body is too large.")
    if 400 <= error.status_code < 500:
        return InvalidRequest(_brief(str(error.detail or HTTPStatus(error.status_code).phrase)))
    return RoundhouseError(HTTPStatus(error.status_code).phrase)


def _brief(message: str) -> str:
    return message.removeprefix("Value error, ").rstrip(".")[:MAX_MESSAGE]
