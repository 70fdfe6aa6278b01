"""Maps ElevenLabs' errors to typed ones: ``{"detail": {"status", "message"}}``, or FastAPI's list of mistakes.

Source: ElevenLabs' page on errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from backends.base import Upstream
from backends.http.errors import read_error, retry_after, scrub
from catalog.errors import (
    InvalidRequest,
    ModelUnavailable,
    RoundhouseError,
    UndecodableMedia,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejectedKey,
)

_BUSY = frozenset({"too_many_concurrent_requests", "rate_limit_exceeded", "concurrent_limit_exceeded"})
_KEY = frozenset({"invalid_api_key", "quota_exceeded", "missing_permissions", "needs_authorization"})
_MODEL = frozenset({"model_not_found", "invalid_model_id", "model_access_denied"})
_MEDIA = frozenset({"invalid_audio", "audio_decoding_failed", "invalid_file", "corrupted_file"})


def read_elevenlabs_error(
    status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
) -> RoundhouseError:
    """The typed error of a refusal."""
    code, message, param = _detail(body)
    message = scrub(message, upstream)[:2000]
    where = f"The endpoint '{upstream.endpoint}'"
    if code in _KEY or status in (401, 403):
        of_account = code == "quota_exceeded"
        text = f"{where} refused the key ({code or status})" + (f": {message}" if of_account and message else ".")
        rejected = UpstreamRejectedKey(text, upstream_status=status)
        rejected.of_account = of_account
        return rejected
    if code == "system_busy":
        return UpstreamOverloaded(f"{where} is busy.", upstream_status=status, retry_after=retry_after(headers))
    if code in _BUSY or status == 429:
        text = f"{where} says that it gets too many requests: {message}"
        limited = UpstreamRateLimited(text, upstream_status=status, retry_after=retry_after(headers))
        limited.scope = "key"  # ElevenLabs limits the calls of a subscription, whatever the model
        return limited
    if code in _MODEL:
        return ModelUnavailable(f"{where} does not have the model '{upstream.model}': {message}", param="model")
    if code == "voice_not_found":
        return InvalidRequest(message or "No such voice.", param="voice")
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
