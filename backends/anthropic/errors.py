"""Maps Anthropic's errors to typed ones, where the status alone is ambiguous.

Source: Anthropic's page on errors and the error types of its SDK.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from backends.base import Upstream
from backends.http.errors import error_details, quota_exceeded, read_error, scrub
from catalog.errors import ContextLengthExceeded, InvalidRequest, RoundhouseError, UpstreamTimeout

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
# Anthropic gives no code for these, only the text.
_TOO_LONG = re.compile(r"prompt is too long: (?P<requested>\d+) tokens > (?P<limit>\d+)")
_NO_ROOM = re.compile(r"exceed context limit: (?P<prompt>\d+) \+ (?P<answer>\d+) > (?P<limit>\d+)")
_THREADS = "thread_"
"""The beginning of the codes in ``error.details`` by which a client's thread goes on in another way."""
_USED_UP = re.compile(r"credit balance is too low|reached your specified (?:\w+ )?API usage limits", re.IGNORECASE)


def read_anthropic_error(
    status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
) -> RoundhouseError:
    """The typed error of a body ``{"type": "error", "error": {"type", "message"}}``."""
    details = error_details(body)
    if status == 402 or (status in (400, 403, 429) and _USED_UP.search(details.message)):
        return quota_exceeded(status, scrub(details.message, upstream), upstream)
    if (thread := _thread_details(body)) is not None and 400 <= status < 500:
        refused = InvalidRequest(scrub(details.message, upstream), param="thread")
        refused.inner = thread
        return refused
    if details.type == "timeout_error":
        return UpstreamTimeout(
            f"The endpoint '{upstream.endpoint}' gave up on the request.", upstream_status=status
        )
    if status == 400 and (found := _TOO_LONG.search(details.message)):
        return ContextLengthExceeded(
            model=upstream.model, limit=int(found["limit"]), requested=int(found["requested"])
        )
    if status == 400 and (found := _NO_ROOM.search(details.message)):
        requested = int(found["prompt"]) + int(found["answer"])
        return ContextLengthExceeded(model=upstream.model, limit=int(found["limit"]), requested=requested)
    return read_error(status, headers, body, upstream)


def _thread_details(body: bytes) -> dict[str, Any] | None:
    """The code of an error about a thread, and the names of what a thread cannot hold."""
    if _THREADS.encode() not in body:
        return None
    try:
        details = orjson.loads(body)["error"]["details"]
        if not details["error_code"].startswith(_THREADS):
            return None
        unsupported = [str(name)[:64] for name in details.get("unsupported") or ()][:16]
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return None
    return {"error_code": details["error_code"][:64], **({"unsupported": unsupported} if unsupported else {})}


def read_stream_error(event: dict[str, Any], upstream: Upstream) -> RoundhouseError:
    """The typed error of an ``error`` event; its type stands for the HTTP status that an event lacks."""
    error = event.get("error")
    kind = error.get("type") if isinstance(error, dict) else None
    return read_anthropic_error(_STATUS.get(str(kind), 500), {}, orjson.dumps(event), upstream)
