"""Reads errors of the Responses API: within a stream, and with the names that a chat's caller knows.

Source: OpenAI's API reference and the error codes of its SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from backends.base import Upstream
from backends.http.errors import ErrorReader, error_details, read_error
from catalog.errors import ContextLengthExceeded, InvalidRequest, RoundhouseError
from catalog.types import Json

_STATUS = {
    "server_error": 500,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "slow_down": 503,
    "server_is_overloaded": 503,
    "vector_store_timeout": 504,
    "invalid_api_key": 401,
    "model_not_found": 404,
}
_OF_REQUEST = (
    *("invalid_", "image_", "unsupported_", "empty_", "failed_to_download", "context_length", "content_"),
    *("cyber_policy", "bio_policy", "misalignment_policy", "data_residency", "string_above", "bad_request"),
)
"""Beginnings of the codes of errors that the request caused."""
_STORED = ("input", "previous_response_id", "conversation", "prompt", "tools")
"""Fields that refer to what is stored at OpenAI."""
_NAMES = (
    ("input", "messages"),
    ("text.format", "response_format"),
    ("text.verbosity", "verbosity"),
    ("reasoning.effort", "reasoning_effort"),
    ("max_output_tokens", "max_completion_tokens"),
)
"""Fields of a response, by the beginning of a path, and of the chat that they come from."""


def read_failure(error: Any, upstream: Upstream) -> RoundhouseError:
    """The typed error of a ``response.failed`` or ``error`` event; its code stands for the status it lacks."""
    given = error if isinstance(error, dict) else {}
    code = str(given.get("code") or given.get("type") or "")
    status = _STATUS.get(code) or (400 if code.startswith(_OF_REQUEST) else 500)
    fields = {name: given.get(name) for name in ("code", "message", "param", "type")}
    return read_error(status, {}, orjson.dumps({"error": fields}), upstream)


def error_of(event: Json) -> Any:
    """The error within an ``error`` event: OpenAI sends its fields in the event or in an object within."""
    inner = event.get("error")
    return inner if isinstance(inner, dict) else event


def naming(errors: ErrorReader, *, chat: bool) -> ErrorReader:
    """An error reader whose errors name the caller's fields: those of a chat, or those of a response.

    A 404 for something in the request, such as an item that is not stored, is the caller's mistake.
    """

    def read(status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream) -> RoundhouseError:
        if status == 404 and (error_details(body).param or "").startswith(_STORED):
            status = 400
        return named(errors(status, headers, body, upstream), chat=chat)

    return read


def named(error: RoundhouseError, *, chat: bool) -> RoundhouseError:
    """The error with the caller's name for its field."""
    if isinstance(error, ContextLengthExceeded):
        error.param = "messages" if chat else "input"
    elif chat and isinstance(error, InvalidRequest) and error.param:
        error.param = next((name for start, name in _NAMES if error.param.startswith(start)), error.param)
    return error
