"""Maps Google's errors to typed ones, where the status alone is ambiguous.

Source: Google's API error model (google.rpc.Status with RetryInfo and ErrorInfo) and Gemini's error codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from backends.base import Upstream
from backends.http.errors import (
    MAX_RETRY_AFTER,
    delay_in,
    limit_scope,
    quota_exceeded,
    read_error,
    retry_after,
    scrub,
)
from catalog.errors import (
    ContextLengthExceeded,
    RoundhouseError,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejectedKey,
)

# Google gives no code for this, only a text, with or without the count of the prompt.
_TOO_LONG = re.compile(
    r"input token count (?:\((?P<requested>\d+)\) )?exceeds the maximum number of tokens allowed"
)
_LIMIT = re.compile(r"allowed \(?(?P<limit>\d+)")
_DELAY = re.compile(r"(?P<seconds>\d+(?:\.\d+)?)s")
_KEY_REASONS = frozenset({"API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED", "API_KEY_EXPIRED", "CONSUMER_SUSPENDED"})
_KEY_TEXT = re.compile(r"(?:your )?api key (?:was reported as leaked|expired|not valid)", re.IGNORECASE)
# "You exceeded your current quota, please check your plan and billing details" is the text of every limit.
_USED_UP = re.compile(
    r"prepay\w* credits? (?:are|is) (?:depleted|exhausted|used up)|(?:spending|spend) (?:cap|limit)"
    r"|billing (?:account )?(?:is |has been |to be )?(?:disabled|closed|not (?:enabled|active)|enabled)",
    re.IGNORECASE,
)

_PER_DAY = re.compile(r"'quotaId': '\w*PerDay")


def read_google_error(status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream) -> RoundhouseError:
    """The typed error of ``{"error": {"code", "message", "status", "details"}}``, alone or in a list of one."""
    error = _error_object(body)
    message = scrub(str(error.get("message") or ""), upstream)[:2000]
    where = f"The endpoint '{upstream.endpoint}'"
    listed = error.get("details")
    details = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    reasons = {str(one.get("reason")) for one in details}
    if "BILLING_DISABLED" in reasons or (status in (400, 403, 429) and _USED_UP.search(message)):
        return quota_exceeded(status, message, upstream)
    of_model = "PerModel" in str(details)
    if status == 429 and _PER_DAY.search(str(details)):  # its delay, if it has one, is no midnight
        used_up = quota_exceeded(status, message, upstream)
        used_up.scope = "model" if of_model else "key"
        return used_up
    if reasons & _KEY_REASONS or (status in (400, 403) and _KEY_TEXT.match(message)):
        rejected = UpstreamRejectedKey(f"{where} refused the key.", upstream_status=status)
        rejected.scope = "key"
        return rejected
    if status == 429:
        text = f"{where} says that it gets too many requests: {message}"
        wait = next((one for one in (_retry_delay(details), retry_after(headers)) if one is not None), None)
        wait = delay_in(message) if wait is None else wait
        limited = UpstreamRateLimited(text, upstream_status=status, retry_after=wait)
        limited.scope = "model" if of_model else limit_scope(message, upstream)
        return limited
    if status == 400 and error.get("status") == "FAILED_PRECONDITION":
        return UpstreamError(f"{where} does not serve this account or place: {message}", upstream_status=status)
    if status == 400 and (found := _TOO_LONG.search(message)):
        limit = _LIMIT.search(message)
        return ContextLengthExceeded(
            model=upstream.model,
            limit=int(limit["limit"]) if limit else None,
            requested=int(found["requested"]) if found["requested"] else None,
        )
    return read_error(status, headers, orjson.dumps({"error": error}) if error else body, upstream)


def read_stream_error(payload: dict[str, Any], upstream: Upstream) -> RoundhouseError:
    """The typed error of an ``error`` object within a stream, by its own code."""
    error = payload.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return read_google_error(status, {}, orjson.dumps(payload), upstream)


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return error if isinstance(error, dict) else {}


def _retry_delay(details: list[dict[str, Any]]) -> float | None:
    for one in details:
        if str(one.get("@type", "")).endswith("google.rpc.RetryInfo"):
            found = _DELAY.fullmatch(str(one.get("retryDelay")))
            return min(float(found["seconds"]), MAX_RETRY_AFTER) if found else None
    return None
