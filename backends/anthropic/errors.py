"""Anthropic's errors as ours. Source: Anthropic's page on errors and the error types of its SDK."""

from __future__ import annotations

import re
from typing import Any

from catalog.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelUnavailable,
    PayloadTooLarge,
    RoundhouseError,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejectedKey,
    UpstreamTimeout,
)

Json = dict[str, Any]

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_TOO_LONG = re.compile(r"prompt is too long: (?P<requested>\d+) tokens > (?P<limit>\d+)")
_NO_ROOM = re.compile(r"exceed context limit: (?P<prompt>\d+) \+ (?P<answer>\d+) > (?P<limit>\d+)")


def translate_error(
    body: Any, *, model: str, status: int | None = None, retry_after: float | None = None
) -> RoundhouseError:
    """The error for a body ``{"type": "error", "error": {"type", "message"}}`` or for a bare status.

    In a stream there is no status: the type stands for it. What the provider says about a key is not
    repeated, lest a part of the key is in it.
    """
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    kind = str(error.get("type") or "")
    message = str(error.get("message") or "no reason given")[:2000]
    status = status or _STATUS.get(kind, 500)
    text = f"Anthropic: {message}"
    match kind, status:
        case (_, 401 | 402 | 403):
            return UpstreamRejectedKey(f"Anthropic refused the key ({kind or status}).", upstream_status=status)
        case ("rate_limit_error", _) | (_, 429):
            return UpstreamRateLimited(text, upstream_status=status, retry_after=retry_after)
        case ("overloaded_error", _) | (_, 503 | 529):
            return UpstreamOverloaded(text, upstream_status=status, retry_after=retry_after)
        case ("timeout_error", _) | (_, 504):
            return UpstreamTimeout(text, upstream_status=status)
        case ("not_found_error", _) | (_, 404):
            return ModelUnavailable(f"{text} (model '{model}')")
        case ("request_too_large", _) | (_, 413):
            return PayloadTooLarge(text)
        case (_, 400 | 422):
            return _invalid(message, model)
        case _:
            return UpstreamError(text, upstream_status=status, retry_after=retry_after)


def _invalid(message: str, model: str) -> RoundhouseError:
    if found := _TOO_LONG.search(message):
        return ContextLengthExceeded(model=model, limit=int(found["limit"]), requested=int(found["requested"]))
    if found := _NO_ROOM.search(message):
        return ContextLengthExceeded(
            model=model, limit=int(found["limit"]), requested=int(found["prompt"]) + int(found["answer"])
        )
    if "credit balance is too low" in message:  # a 400 with no type of its own, yet not the caller's mistake
        return UpstreamRejectedKey("Anthropic refused the key (no credit).", upstream_status=400)
    return InvalidRequest(f"Anthropic: {message}")
