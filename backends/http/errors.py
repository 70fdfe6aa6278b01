"""What went wrong with an upstream, in our own errors: the one table for the HTTP library and for statuses."""

from __future__ import annotations

import math
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from backends.base import Upstream
from backends.http.connect import ProxyRefused
from backends.http.connection import ConnectionLost, NotHttp
from catalog.errors import (
    CapabilityMismatch,
    ConnectTimeout,
    ContextLengthExceeded,
    InvalidRequest,
    ModelUnavailable,
    PayloadTooLarge,
    RoundhouseError,
    StreamBroken,
    UndecodableMedia,
    UnsupportedParameter,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRejectedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)

ErrorReader = Callable[[int, Mapping[str, str], bytes, Upstream], RoundhouseError]
"""Reads a refusal of one provider: status, headers, (bounded) body, and who said it."""

_MAX_MESSAGE = 2000
_MAX_RETRY_AFTER = 86_400.0

# First match counts.
_TABLE: tuple[tuple[type[Exception], type[UpstreamError], str], ...] = (
    (TimeoutError, ConnectTimeout, "took too long to accept a connection"),
    (socket.gaierror, UpstreamUnreachable, "has a name that could not be resolved"),
    (ssl.SSLError, UpstreamUnreachable, "could not be reached securely (TLS)"),
    (ProxyRefused, UpstreamUnreachable, "could not be reached through the proxy"),
    (NotHttp, UpstreamProtocolError, "does not answer in HTTP"),
    (ConnectionLost, UpstreamUnreachable, "closed the connection before it answered"),
    (OSError, UpstreamUnreachable, "could not be reached"),
)

UNREACHED = (OSError, ConnectionLost, NotHttp)
"""What making a connection, and an exchange on it, may raise."""


def translate(exc: Exception, upstream: Upstream) -> UpstreamError:
    """One of :data:`UNREACHED` as one of :mod:`catalog.errors`; do not chain it."""
    if isinstance(exc, ConnectionLost) and exc.begun:
        return StreamBroken(f"The endpoint '{upstream.endpoint}' closed the connection within its answer.")
    for kind, error, what in _TABLE:
        if isinstance(exc, kind):
            return error(f"The endpoint '{upstream.endpoint}' {what}.")
    raise AssertionError(f"{exc!r} is none of them")


def bad_address(upstream: Upstream, what: str) -> UpstreamError:
    """The error of an address that cannot be called."""
    return UpstreamUnreachable(f"The endpoint '{upstream.endpoint}' has an address that is not {what}.")


# ---- statuses


def read_error(status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream) -> RoundhouseError:
    """The typed error of a status that is not 2xx, from OpenAI's error object or what servers send in its place.

    Known besides ``{"error": {"message", "type", "param", "code"}}``: the object without its wrapper (vLLM),
    ``{"error": "text"}`` (Ollama), ``{"detail": ...}`` (FastAPI).
    """
    details = error_details(body)
    message = scrub(details.message, upstream)
    if 400 <= status < 500:
        return _refusal(status, headers, details, message, upstream)
    said = f": {message}" if message else "."
    text = f"The endpoint '{upstream.endpoint}' answered with HTTP {status}{said}"
    if status in (503, 529):
        return UpstreamOverloaded(text, upstream_status=status, retry_after=retry_after(headers))
    if status in (504, 524):
        return UpstreamTimeout(text, upstream_status=status)
    if status == 501:
        return CapabilityMismatch(text, param="model")
    if status < 400:
        return UpstreamProtocolError(
            f"The endpoint '{upstream.endpoint}' answered with HTTP {status}; redirects are not followed.",
            upstream_status=status,
        )
    return UpstreamError(text, upstream_status=status, retry_after=retry_after(headers))


def _refusal(
    status: int, headers: Mapping[str, str], details: ErrorDetails, message: str, upstream: Upstream
) -> RoundhouseError:
    who = f"The endpoint '{upstream.endpoint}'"
    if status in (401, 402, 403):
        code = f" ({details.code})" if re.fullmatch(r"[a-z_]{1,40}", details.code) else ""
        return UpstreamRejectedKey(f"{who} refused Roundhouse's key{code}.", upstream_status=status)
    if status == 429:
        text = f"{who} says that it gets too many requests" + (f": {message}" if message else ".")
        return UpstreamRateLimited(text, upstream_status=status, retry_after=retry_after(headers))
    if status == 404 and (details.param == "model" or {details.code, details.type} & _NO_MODEL):
        return ModelUnavailable(f"{who} does not have the model '{upstream.model}': {message}", param="model")
    if status in (404, 405):
        return CapabilityMismatch(f"{who} does not serve this kind of request (HTTP {status}).", param="model")
    if status == 408:
        return UpstreamTimeout(f"{who} gave up waiting for the request.", upstream_status=status)
    if status == 413:
        return PayloadTooLarge(f"{who} says that the request is too large" + (f": {message}" if message else "."))
    too_long = _context_length(details, upstream)
    if too_long is not None:
        return too_long
    error = _BY_CODE.get(details.code, InvalidRequest)
    return error(message or f"{who} refused the request with HTTP {status}.", param=details.param)


# Codes that OpenAI, other Roundhouses and our own workers give.
_BY_CODE: Mapping[str, type[InvalidRequest]] = {
    "unsupported_parameter": UnsupportedParameter,
    "undecodable_media": UndecodableMedia,
    "model_capability_mismatch": CapabilityMismatch,
}
_NO_MODEL = frozenset({"model_not_found", "not_found_error", "NotFoundError", "NOT_FOUND", "DeploymentNotFound"})


class ErrorDetails:
    """What an error's body said; every field is text, empty when it was not given."""

    __slots__ = ("code", "known", "message", "numbers", "param", "type")

    def __init__(self, fields: Mapping[str, Any], *, known: bool) -> None:
        self.known = known
        self.message = str(fields.get("message") or "")[:_MAX_MESSAGE]
        self.type = str(fields.get("type") or fields.get("status") or "")
        code = fields.get("code")
        self.code = code if isinstance(code, str) else ""
        param = fields.get("param")
        self.param = param[:256] if isinstance(param, str) else None
        self.numbers = {key: value for key, value in fields.items() if isinstance(value, int)}


def error_details(body: bytes) -> ErrorDetails:
    """Read an error's body, whatever it is; ``known`` is True for an error object of a kind we know."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ErrorDetails({"message": _plain(body)}, known=False)
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    if not isinstance(parsed, dict):
        return ErrorDetails({}, known=False)
    inner = parsed.get("error", parsed)
    if isinstance(inner, str):
        return ErrorDetails({"message": inner}, known=True)
    if isinstance(inner, dict) and "message" in inner:
        return ErrorDetails(inner, known=True)
    detail = parsed.get("detail")
    return ErrorDetails({"message": detail if isinstance(detail, str) else ""}, known=False)


def _plain(body: bytes) -> str:
    """A body that is not JSON, if it is a short text; a page of HTML says nothing to the caller."""
    text = body[:300].decode("utf-8", "replace").strip()
    return "" if text.startswith("<") else text


_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
# vLLM gives no code for it, and OpenAI gives the numbers only in the text.
_CONTEXT_TEXT = re.compile(r"maximum (?:context|model) length (?:is|of) (\d+)(?: tokens)?", re.IGNORECASE)
_CONTEXT_NEED = re.compile(
    r"(?:requested|resulted in|contains at least|contains|length of)\D{0,20}(\d+)", re.IGNORECASE
)


def _context_length(details: ErrorDetails, upstream: Upstream) -> ContextLengthExceeded | None:
    limit = _CONTEXT_TEXT.search(details.message)
    if limit is None and not {details.code, details.type} & _CONTEXT_CODES:
        return None
    need = _CONTEXT_NEED.search(details.message, limit.end() if limit else 0)
    return ContextLengthExceeded(
        model=upstream.model,
        limit=details.numbers.get("n_ctx", int(limit[1]) if limit else None),
        requested=details.numbers.get("n_prompt_tokens", int(need[1]) if need else None),
        param=details.param or "messages",
    )


def stream_error(payload: Any, upstream: Upstream) -> RoundhouseError:
    """The typed error of an ``{"error": ...}`` object within a stream that began with 200."""
    inner = payload.get("error", payload) if isinstance(payload, dict) else payload
    code = inner.get("code") if isinstance(inner, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else None
    if status is None and isinstance(inner, dict):
        status = _STATUS_OF_TYPE.get(str(inner.get("type"))) or _STATUS_OF_TYPE.get(str(code), 500)
    return read_error(status or 500, {}, orjson.dumps({"error": inner}), upstream)


_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "exceed_context_size_error": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "upstream_rate_limited": 429,
    "insufficient_quota": 429,
    "overloaded_error": 529,
    "unavailable_error": 503,
    "upstream_overloaded": 503,
}


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds to wait: ``retry-after-ms``, or ``Retry-After`` in seconds or as an HTTP date; at most a day."""
    seconds: float | None = None
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            seconds = float(milliseconds) / 1000
        elif (value := headers.get("retry-after")) is not None:
            seconds = float(value) if re.fullmatch(r"[\d.]+", value.strip()) else _until(value, now)
    except (ValueError, TypeError, OverflowError):
        return None
    if seconds is None or not math.isfinite(seconds):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


def _until(date: str, now: float | None) -> float:
    return parsedate_to_datetime(date).timestamp() - (time.time() if now is None else now)


# Keys of the usual providers, whole or shortened with stars as their own messages show them.
_KEY_SHAPE = re.compile(r"\b(?:sk|pk|gsk|xai|rh|AIza|hf|Bearer)[-_ ][\w*.-]{6,}|\bAIza[\w-]{10,}")


def scrub(text: str, upstream: Upstream) -> str:
    """``text`` without the key, the secret headers, or anything of a key's shape that an upstream may echo."""
    for secret in (upstream.api_key, *upstream.headers.values()):
        if secret and len(secret) >= 8:
            text = text.replace(secret, "[secret]")
    return _KEY_SHAPE.sub("[secret]", text)
