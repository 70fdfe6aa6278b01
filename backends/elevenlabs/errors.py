"""Maps ElevenLabs' errors to typed ones: ``{"detail": {"status", "message"}}``, or FastAPI's list of mistakes.

Source: ElevenLabs' page on errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from backends.base import Upstream
from backends.http.errors import delay_in, forbidden, quota_exceeded, read_error, retry_after, scrub
from catalog.errors import (
    InvalidRequest,
    ModelUnavailable,
    RoundhouseError,
    UndecodableMedia,
    UnsupportedParameter,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejectedKey,
)

_BUSY = frozenset({"too_many_concurrent_requests", "rate_limit_exceeded", "concurrent_limit_exceeded"})
_KEY = frozenset({"invalid_api_key", "needs_authorization", "invalid_authorization_header"})
_QUOTA = frozenset({"quota_exceeded", "insufficient_credits", "payment_required", "character_limit_exceeded"})
# Given with a 401: the key is good, but its permissions or its plan do not include this.
_PLAN = frozenset(
    {
        *("missing_permissions", "output_format_not_allowed", "subscription_required", "free_users_not_allowed"),
        *("voice_access_denied", "invalid_subscription", "only_for_creator+", "feature_not_available"),
    }
)
_MODEL = frozenset({"model_not_found", "invalid_model_id", "model_access_denied"})
_MEDIA = frozenset({"invalid_audio", "audio_decoding_failed", "invalid_file", "corrupted_file"})


def read_elevenlabs_error(
    status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
) -> RoundhouseError:
    """The typed error of a refusal."""
    code, message, param = _detail(body)
    code, message = scrub(code, upstream), scrub(message, upstream)[:2000]
    param = param and scrub(param, upstream)
    where = f"The endpoint '{upstream.endpoint}'"
    if code in _QUOTA or status == 402:
        return quota_exceeded(status, message, upstream)
    if code in _PLAN or (status == 403 and code not in _KEY and code not in _MODEL):
        return forbidden(status, message or code, upstream, of_model=False)
    if code in _KEY or (status == 401 and code not in _MODEL):
        return UpstreamRejectedKey(f"{where} refused the key ({code or status}).", upstream_status=status)
    if code == "system_busy":
        return UpstreamOverloaded(f"{where} is busy.", upstream_status=status, retry_after=retry_after(headers))
    if code in _BUSY or status == 429:
        text = f"{where} says that it gets too many requests: {message}"
        wait = retry_after(headers)
        wait = delay_in(message) if wait is None else wait
        limited = UpstreamRateLimited(text, upstream_status=status, retry_after=wait)
        limited.scope = "key"  # ElevenLabs limits the calls of a subscription, whatever the model
        return limited
    if code in _MODEL:
        return ModelUnavailable(f"{where} does not have the model '{upstream.model}': {message}", param="model")
    if code == "voice_not_found":
        # Another model may have the voice, so that speech can fall back.
        return UnsupportedParameter(message or "No such voice.", param="voice")
    if code in _MEDIA:
        return UndecodableMedia(message or "The audio could not be read.", param="file")
    if message and 400 <= status < 500 and status not in (404, 405, 408, 413):
        return InvalidRequest(f"ElevenLabs: {message}", param=param)
    return read_error(status, headers, body, upstream)


def _detail(body: bytes) -> tuple[str, str, str | None]:
    """``(code, message, parameter)``, each empty where the body lacks it."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", "", None
    detail: Any = parsed.get("detail") if isinstance(parsed, dict) else None
    if isinstance(detail, dict):
        return str(detail.get("status") or detail.get("code") or ""), str(detail.get("message") or ""), None
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        place = detail[0].get("loc") or ()
        param = str(place[-1])[:80] if isinstance(place, list) and place else None
        return "", str(detail[0].get("msg") or ""), param
    return "", detail if isinstance(detail, str) else "", None
