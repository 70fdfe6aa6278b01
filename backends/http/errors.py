"""Translates failures of a call, from the transport and by HTTP status, into :mod:`catalog.errors`."""

from __future__ import annotations

import errno
import math
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import orjson

from backends.base import Upstream
from backends.http.connect import ProxyRefused
from backends.http.connection import ConnectionLost, NotHttp
from backends.http.mismatch import lacks, lacks_path, named_field, of_lack, refuses_value
from backends.http.oversized import oversized
from catalog.errors import (
    CapabilityMismatch,
    ConnectTimeout,
    ContextLengthExceeded,
    InvalidRequest,
    ModelUnavailable,
    PathMissing,
    PayloadTooLarge,
    RequestFailed,
    RoundhouseError,
    StreamBroken,
    Unavailable,
    UndecodableMedia,
    UnsupportedParameter,
    UpstreamError,
    UpstreamForbidden,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRejectedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)

ErrorReader = Callable[[int, Mapping[str, str], bytes, Upstream], RoundhouseError]
"""Makes the typed error of an answer that is not 2xx: status, headers, (bounded) body, upstream."""

_MAX_MESSAGE = 2000
_MAX_MISTAKES = 5
MAX_RETRY_AFTER = 300.0
"""Longest wait in seconds that is passed on: the router calls again after it, too."""

# The first match counts.
_TABLE: tuple[tuple[type[Exception], type[UpstreamError], str], ...] = (
    (TimeoutError, ConnectTimeout, "took too long to accept a connection"),
    (socket.gaierror, UpstreamUnreachable, "has a name that could not be resolved"),
    (ssl.SSLError, UpstreamUnreachable, "could not be reached securely (TLS)"),
    (ProxyRefused, UpstreamUnreachable, "could not be reached through the proxy"),
    (NotHttp, UpstreamProtocolError, "does not answer in HTTP"),
    (OSError, UpstreamUnreachable, "could not be reached"),
)

TRANSPORT_ERRORS = (OSError, ConnectionLost, NotHttp)
"""Raised by connecting and by an exchange on a connection."""


def translate(exc: Exception, upstream: Upstream) -> RoundhouseError:
    """Translate one of :data:`TRANSPORT_ERRORS`. Raise the result ``from None``."""
    if isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE):
        return Unavailable("This server has no file left to open for a connection. Try again.", retry_after=1)
    if isinstance(exc, ConnectionLost) and exc.begun:
        return StreamBroken(f"The endpoint '{upstream.endpoint}' closed the connection within its answer.")
    if isinstance(exc, ConnectionLost):
        lost = UpstreamUnreachable(f"The endpoint '{upstream.endpoint}' closed the connection before it answered.")
        lost.may_bill = exc.sent
        return lost
    for kind, error, failure in _TABLE:
        if isinstance(exc, kind):
            return error(f"The endpoint '{upstream.endpoint}' {failure}.")
    raise AssertionError(f"{exc!r} is not one of TRANSPORT_ERRORS")


def misconfigured(upstream: Upstream, fault: str) -> UpstreamError:
    """The error of an endpoint whose row makes no request: it has ``fault``."""
    return UpstreamUnreachable(f"The endpoint '{upstream.endpoint}' has {fault}.")


# ---- statuses


def read_error(status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream) -> RoundhouseError:
    """The typed error of a status that is not 2xx, with the message of the error object in the body.

    Reads OpenAI's ``{"error": {"message", "type", "param", "code"}}``, the inner object alone (vLLM),
    ``{"error": "text"}`` (Ollama) and ``{"detail": text or list of mistakes}`` (FastAPI).
    """
    details = error_details(body)
    message = scrub(details.message, upstream)
    details.param = details.param and scrub(details.param, upstream)
    if 400 <= status < 500:
        return _refusal(status, headers, details, message, upstream)
    detail = f": {message}" if message else "."
    text = f"The endpoint '{upstream.endpoint}' answered with HTTP {status}{detail}"
    if status == 500 and (upstream.engine or details.code == RequestFailed.code):
        return RequestFailed(f"'{upstream.model}' failed at this request{detail}")
    if status in (503, 529):
        overloaded = UpstreamOverloaded(text, upstream_status=status, retry_after=retry_after(headers))
        overloaded.status = status
        return overloaded
    if status in (504, 524):  # of a proxy: the server behind it had the request
        late = UpstreamTimeout(text, upstream_status=status)
        late.may_bill = True
        return late
    missing = lacks(details.code, details.param, details.message) if status in (500, 501) else None
    if missing is not None or status == 501:
        return _lacking(
            CapabilityMismatch(message or text, param=details.param or "model"), missing or frozenset()
        )
    if status < 400:
        moved = UpstreamProtocolError(
            f"The endpoint '{upstream.endpoint}' answered with HTTP {status}; redirects are not followed.",
            upstream_status=status,
        )
        moved.may_bill = False
        return moved
    return UpstreamError(text, upstream_status=status, retry_after=retry_after(headers))


def _refusal(
    status: int, headers: Mapping[str, str], details: ErrorDetails, message: str, upstream: Upstream
) -> RoundhouseError:
    endpoint = f"The endpoint '{upstream.endpoint}'"
    if status == 402 and "fewer max_tokens" in details.message:  # OpenRouter: a shorter answer can be paid
        return UnsupportedParameter(message, param="max_tokens")
    if status == 402 or not _QUOTA_CODES.isdisjoint((details.code, details.type)):
        return quota_exceeded(status, message, upstream)
    if status in (401, 403):
        return _denied(status, details, message, upstream)
    if status == 429:
        return oversized(details.message, message, upstream) or _limited(headers, details, message, upstream)
    missing = lacks(details.code, details.param, details.message)
    if status in (404, 405):
        return _not_found(status, details, message, missing, upstream)
    if status == 408:
        return UpstreamTimeout(
            f"{endpoint} gave up waiting for the request" + (f": {message}" if message else "."),
            upstream_status=status,
        )
    if status == 413:
        return PayloadTooLarge(
            f"{endpoint} says that the request is too large" + (f": {message}" if message else ".")
        )
    too_long = _context_length(details, upstream)
    if too_long is not None:
        return too_long
    text = message or f"{endpoint} refused the request with HTTP {status}."
    error = _BY_CODE.get(details.code, InvalidRequest)
    if missing is None:
        if error is InvalidRequest and refuses_value(details.code, details.message):
            error = UnsupportedParameter
        return _with_code(error(text, param=details.param or named_field(details.message)), details, upstream)
    return of_lack(error, text, details.param, missing)


def _with_code(error: InvalidRequest, details: ErrorDetails, upstream: Upstream) -> InvalidRequest:
    """The error with the provider's own code, which tells a client whether its prompt was filtered."""
    if re.fullmatch(r"[a-z][a-z0-9_]{0,63}", details.code) and not details.code.startswith("upstream_"):
        error.code = details.code
    if details.inner is not None:
        text = scrub(orjson.dumps(details.inner).decode(), upstream)
        error.inner = orjson.loads(text) if len(text) <= _MAX_MESSAGE else None
    return error


def _limited(
    headers: Mapping[str, str], details: ErrorDetails, message: str, upstream: Upstream
) -> UpstreamRateLimited:
    text = f"The endpoint '{upstream.endpoint}' says that it gets too many requests"
    wait = retry_after(headers)
    wait = delay_in(details.message) if wait is None else wait
    limited = UpstreamRateLimited(
        text + (f": {message}" if message else "."), upstream_status=429, retry_after=wait
    )
    limited.scope = limit_scope(details.message, upstream)
    return limited


def quota_exceeded(status: int, message: str, upstream: Upstream) -> UpstreamQuotaExceeded:
    """The error of an account that is used up; ``message`` is the provider's, scrubbed."""
    text = f"The endpoint '{upstream.endpoint}' says that the account of Roundhouse's key is used up"
    exceeded = UpstreamQuotaExceeded(text + (f": {message}" if message else "."), upstream_status=status)
    exceeded.scope = "key"
    return exceeded


def _rejected_key(status: int, details: ErrorDetails, upstream: Upstream) -> UpstreamRejectedKey:
    code = f" ({details.code})" if re.fullmatch(r"[a-z_]{1,40}", details.code) else ""
    rejected = UpstreamRejectedKey(
        f"The endpoint '{upstream.endpoint}' refused Roundhouse's key{code}.", upstream_status=status
    )
    rejected.scope = "model" if _of_model(details.message, upstream) else None
    return rejected


def _denied(status: int, details: ErrorDetails, message: str, upstream: Upstream) -> RoundhouseError:
    """The error of a 401, or a 403: of the account or the key if it says so, else of the model or the request."""
    if status == 401 or details.code in _KEY_CODES:
        return _rejected_key(status, details, upstream)
    unquoted = _QUOTED.sub(" ", details.message)
    if _USED_UP.search(unquoted):
        return quota_exceeded(403, message, upstream)
    of_model = details.code in _NO_MODEL or details.param == "model" or _MODEL_WORD.search(unquoted) is not None
    return forbidden(403, message, upstream, of_model=of_model)


def forbidden(status: int, message: str, upstream: Upstream, *, of_model: bool) -> UpstreamForbidden:
    """The error of a refused permission; ``message`` is the provider's, scrubbed."""
    subject = f"the model '{upstream.model}'" if of_model else "this request"
    text = f"The endpoint '{upstream.endpoint}' does not permit {subject}"
    refused = UpstreamForbidden(text + (f": {message}" if message else "."), upstream_status=status)
    refused.scope = "model" if of_model else None
    return refused


def _not_found(
    status: int, details: ErrorDetails, message: str, missing: frozenset[str] | None, upstream: Upstream
) -> RoundhouseError:
    """The error of a 404 or 405: of the model, of the kind of request, or a :class:`PathMissing`."""
    endpoint = f"The endpoint '{upstream.endpoint}'"
    if status == 404 and is_of_model(details, upstream, guess=missing is None):
        return ModelUnavailable(f"{endpoint} does not have the model '{upstream.model}': {message}", param="model")
    if missing:
        return _lacking(CapabilityMismatch(message, param="model"), missing)
    told = f": {message}" if message else "."
    reason = f"{endpoint} does not serve this kind of request (HTTP {status}){told}"
    if missing is not None or (details.known and lacks_path(details.code, details.message)):
        return _lacking(CapabilityMismatch(reason, param="model"), frozenset())
    absent = PathMissing(reason, param="model")
    absent.upstream_status = status
    return _lacking(absent, frozenset())


def is_of_model(details: ErrorDetails, upstream: Upstream, *, guess: bool = True) -> bool:
    """Whether a 404 is of the model: by its fields, or (``guess``) by the words of its message."""
    if details.param == "model" or not _NO_MODEL.isdisjoint((details.code, details.type)):
        return True
    return guess and details.known and _of_model(details.message, upstream)


def _lacking(error: InvalidRequest, missing: frozenset[str]) -> InvalidRequest:
    error.lacks = missing
    return error


_OF_ACCOUNT = re.compile(r"quota|billing|credit|balance|spend", re.IGNORECASE)
_USED_UP = re.compile(
    r"(?:exceeded|out of|used all|insufficient|exhausted|reached|depleted|not enough|no more)\b.{0,60}"
    r"\b(?:quota|billing|credits?|balance|spend\w*)"
    r"|\b(?:quota|billing|credits?|balance|spend\w*)\b.{0,60}"
    r"(?:exhausted|exceeded|reached|depleted|insufficient|too low|used up|run out|not active)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[`'\"][^`'\"]*[`'\"]|\S*/\S*")
"""Names of files, and other text that a caller may have chosen."""
_QUOTA_CODES = frozenset(
    {
        *("insufficient_quota", "quota_exceeded", "billing_error", "billing_not_active"),
        *("billing_hard_limit_reached", "insufficient_credits", "insufficient_balance"),
    }
)
_KEY_CODES = frozenset(
    {
        *("invalid_api_key", "incorrect_api_key", "authentication_error", "invalid_authentication"),
        *("account_deactivated", "key_revoked", "api_key_disabled"),
    }
)
_MODEL_WORD = re.compile(r"\b(?:model|deployment|engine)\b|PerModel", re.IGNORECASE)


def limit_scope(message: str, upstream: Upstream) -> Literal["model", "key"] | None:
    """The scope of a rate limit, by its message: OpenAI's, Groq's and Google's name the model.

    A limit of money is the account's. None if the message says neither.
    """
    if _of_model(message, upstream):
        return "model"
    return "key" if _OF_ACCOUNT.search(message) else None


def _of_model(message: str, upstream: Upstream) -> bool:
    name = upstream.model.rpartition("/")[2].casefold()
    return bool(_MODEL_WORD.search(message)) or (len(name) > 2 and name in message.casefold())


# Codes given by OpenAI, by other Roundhouse gateways and by local workers.
_BY_CODE: Mapping[str, type[InvalidRequest]] = {
    "unsupported_parameter": UnsupportedParameter,
    "unsupported_value": UnsupportedParameter,
    "undecodable_media": UndecodableMedia,
    "model_capability_mismatch": CapabilityMismatch,
}
_NO_MODEL = frozenset({"model_not_found", "not_found_error", "NotFoundError", "NOT_FOUND", "DeploymentNotFound"})


class ErrorDetails:
    """The fields of an error's body.

    If the body lacks them, ``message``, ``type`` and ``code`` are empty and ``param`` is None. ``numbers`` has its
    integers by name, ``inner`` Azure's ``innererror``. ``known`` is whether the body was an error object in one of
    the known forms.
    """

    __slots__ = ("code", "inner", "known", "message", "numbers", "param", "type")

    def __init__(self, fields: Mapping[str, Any], *, known: bool) -> None:
        self.known = known
        self.message = str(fields.get("message") or "")[:_MAX_MESSAGE]
        self.type = str(fields.get("type") or fields.get("status") or "")
        code = fields.get("code")
        self.code = code if isinstance(code, str) else ""
        param = fields.get("param")
        self.param = param[:256] if isinstance(param, str) else None
        inner = fields.get("innererror")
        self.inner = inner if isinstance(inner, dict) else None
        self.numbers = {key: value for key, value in fields.items() if isinstance(value, int)}


def error_details(body: bytes) -> ErrorDetails:
    """Read an error's body: an error object in a known form, any other JSON, or plain text."""
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
    if isinstance(detail, list) and detail:
        mistakes = [_mistake(one) for one in detail[:_MAX_MISTAKES] if isinstance(one, dict)]
        message = "; ".join(f"{place}: {text}" if place else text for place, text in mistakes)
        param = mistakes[0][0] if mistakes else None
        return ErrorDetails({"message": message, "param": param or None}, known=bool(mistakes))
    return ErrorDetails({"message": detail if isinstance(detail, str) else ""}, known=False)


def _mistake(one: Mapping[str, Any]) -> tuple[str, str]:
    """The field, as a path, and the text of one of FastAPI's mistakes."""
    place = one.get("loc")
    steps = [str(step) for step in place] if isinstance(place, list) else []
    return ".".join(steps[1:] if steps[:1] == ["body"] else steps), str(one.get("msg") or "")


def _plain(body: bytes) -> str:
    """The beginning of a body that is not JSON; empty for HTML, which does not help the caller."""
    text = body[:300].decode("utf-8", "replace").strip()
    return "" if text.startswith("<") else text


_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
# vLLM gives no code for this error, and OpenAI gives the numbers in the message only.
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
    """The typed error of an ``{"error": ...}`` object within a stream whose status was 200."""
    inner = payload.get("error", payload) if isinstance(payload, dict) else payload
    code = inner.get("code") if isinstance(inner, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else None
    if status is None and isinstance(inner, dict):
        status = _STATUS_OF_TYPE.get(str(inner.get("type"))) or _STATUS_OF_TYPE.get(str(code), 500)
    return read_error(status or 500, {}, orjson.dumps({"error": inner}), upstream)


_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "image_generation_user_error": 400,
    "moderation_blocked": 400,
    "content_policy_violation": 400,
    "content_filter": 400,
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
    """Seconds to wait, by ``retry-after-ms`` or ``Retry-After`` (seconds or an HTTP date), at most five minutes.

    ``now`` is the Unix time that a date is measured from (default: the system's). None without a valid header.
    """
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
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


_DELAY = re.compile(
    r"(?:try again|retry) (?:in|after)\s+(?=\d)(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m(?!s))?"
    r"(?:(?P<s>\d+(?:\.\d+)?) ?(?P<unit>ms|s))?",
    re.IGNORECASE,
)
_LONGEST_NUMBER = 15


def delay_in(message: str) -> float | None:
    """Seconds to wait by a message ("Please try again in 6m0s."), at most five minutes; None if it has none."""
    found = _DELAY.search(message)
    if found is None or not any(found.group("h", "m", "s")):
        return None
    hours, minutes, seconds = (float((one or "0")[:_LONGEST_NUMBER]) for one in found.group("h", "m", "s"))
    if (found["unit"] or "").lower() == "ms":
        seconds /= 1000
    return min(hours * 3600 + minutes * 60 + seconds, MAX_RETRY_AFTER)


def _until(date: str, now: float | None) -> float:
    return parsedate_to_datetime(date).timestamp() - (time.time() if now is None else now)


# API keys of the usual providers and tokens, whole or masked with stars as in their error messages.
_KEY_SHAPE = re.compile(
    r"\b(?:sk|pk|gsk|xai|rh|AIza|hf|Bearer)[-_ ][\w*.-]{6,}"
    r"|\b(?:rk|r8|pplx|fw|nvapi|ghp|github_pat|csk|tgp)[-_][\w*.-]{6,}"
    r"|\bBasic (?=\S*(?:[\d=]|[a-z][A-Z]))[\w+/=-]{8,}"
    r"|\bAIza[\w-]{10,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bdapi[0-9a-f]{16,}"
    r"|\bya29\.[\w.-]{8,}|\beyJ[\w-]{8,}(?:\.[\w-]*)*|\b\w{2,}\*{3,}[\w*]*"
)
_SECRET_QUERY = re.compile(r"key|token|secret|sig|pass|auth|code", re.IGNORECASE)
_SHORTEST_SECRET = 8
_MASK = "[secret]"
_ACCOUNT_SHAPE = re.compile(
    r"\b(?:org|proj|user|acct|account|team)[-_](?=\w*\d)\w{8,}|(?<=:)\d{12}(?=:)|(?<=\bprojects/)[\w.-]+"
)
"""Ids of the organisation, project or account of a key: OpenAI's, AWS' in names of resources, Google's."""
_ACCOUNT = "[account]"


def scrub(text: str, upstream: Upstream) -> str:
    """Replace in ``text`` the upstream's key, secrets of its headers and query, and what is shaped like a key or
    the id of an account."""
    if not text:
        return text
    words = (word for value in upstream.headers.values() for word in (value, *value.split()))
    query = (value for name, value in upstream.query.items() if _SECRET_QUERY.search(name))
    for secret in (upstream.api_key, *words, *query):
        if secret and len(secret) >= _SHORTEST_SECRET:
            text = _without_end_of(text.replace(secret, _MASK), secret)
    return _ACCOUNT_SHAPE.sub(_ACCOUNT, _KEY_SHAPE.sub(_MASK, text))


def _without_end_of(text: str, secret: str) -> str:
    """A text whose end is not the beginning of the secret, as where a message was cut."""
    for length in range(min(len(secret), len(text)), _SHORTEST_SECRET - 1, -1):
        if text.endswith(secret[:length]):
            return text[:-length] + _MASK
    return text
