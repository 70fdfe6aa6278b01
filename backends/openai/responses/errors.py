"""Reads errors of the Responses API: within a stream, and with the names that a chat's caller knows.

Source: OpenAI's API reference and the error codes of its SDK.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from backends.base import Upstream
from backends.http.errors import ErrorDetails, ErrorReader, error_details, is_of_model, read_error
from backends.http.mismatch import lacks_path
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
_STORED = ("input", "prompt", "tools")
"""Fields that refer to what is stored at OpenAI."""
_ID = re.compile(r"\b[a-z]{2,20}[_-][\w-]{1,200}")
"""An id of OpenAI's objects: its kind, then letters and digits."""
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


def naming(errors: ErrorReader, sent: Json, *, chat: bool) -> ErrorReader:
    """An error reader whose errors name the caller's fields: those of a chat, or those of a response.

    A 404 for something in the request that was ``sent``, such as a prompt or a file, is the caller's mistake.
    """

    def read(status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream) -> RoundhouseError:
        if status == 404 and _is_of_request(error_details(body), sent, upstream):
            status = 400
        return named(errors(status, headers, body, upstream), chat=chat)

    return read


def _is_of_request(details: ErrorDetails, sent: Json, upstream: Upstream) -> bool:
    """Whether a 404 is for an object that the request names, and not for the model or the path.

    OpenAI's own have a ``param`` for few of them; the others quote the id, or are of a prompt.
    """
    if (details.param or "").startswith(_STORED):
        return True
    if not details.known or lacks_path(details.code, details.message) or is_of_model(details, upstream):
        return False
    return bool(sent.get("prompt")) or any(
        f'"{name}"'.encode() in orjson.dumps(sent) for name in _ID.findall(details.message)
    )


def named(error: RoundhouseError, *, chat: bool) -> RoundhouseError:
    """The error with the caller's name for its field."""
    if isinstance(error, ContextLengthExceeded):
        error.param = "messages" if chat else "input"
    elif chat and isinstance(error, InvalidRequest) and error.param:
        error.param = next((name for start, name in _NAMES if error.param.startswith(start)), error.param)
    return error
