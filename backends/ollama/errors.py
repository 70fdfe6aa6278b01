"""Maps Ollama's errors to typed ones: ``{"error": text}``, where the text may be an error object of its engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from backends.base import Upstream
from backends.http.errors import read_error
from catalog.errors import ContextLengthExceeded, RoundhouseError
from catalog.types import Json

_TOO_LONG = re.compile(
    r"(?:input|prompt)\b.{0,40}\b(?:exceeds|longer than)\b.{0,40}\bcontext length", re.IGNORECASE | re.DOTALL
)


def read_ollama_error(status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream) -> RoundhouseError:
    """The typed error of a refusal."""
    message = _message(_loaded(body))
    if message is None:
        return read_error(status, headers, body, upstream)
    inner = _loaded(message.encode())
    if isinstance(inner, dict) and isinstance(inner.get("error"), dict):
        return read_error(status, headers, message.encode(), upstream)
    if _TOO_LONG.search(message[:300]):
        return ContextLengthExceeded(model=upstream.model, limit=None, requested=None, param="messages")
    return read_error(status, headers, body, upstream)


def error_in_stream(line: Json, upstream: Upstream) -> RoundhouseError:
    """The typed error of a line with ``error``, after a status of 200."""
    status = line.get("status_code")
    known = status if isinstance(status, int) and 400 <= status < 600 else 500
    return read_ollama_error(known, {}, orjson.dumps({"error": line["error"]}), upstream)


def _message(document: Any) -> str | None:
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, str) else None


def _loaded(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
