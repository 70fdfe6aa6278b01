"""Maps Bedrock's exceptions to typed errors, in answers and within streams.

Source: the service model of bedrock-runtime in botocore, and AWS's page on Bedrock's API error codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import orjson

from backends.anthropic.errors import read_anthropic_error
from backends.base import Upstream
from backends.clouds.bedrock.event_stream import Frame
from backends.http.errors import delay_in, error_details, forbidden, quota_exceeded, read_error, retry_after, scrub
from catalog.errors import (
    ContextLengthExceeded,
    ModelUnavailable,
    RoundhouseError,
    UnsupportedParameter,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejectedKey,
    UpstreamTimeout,
)

_STATUS = {
    "accessdeniedexception": 403,
    "internalserverexception": 500,
    "modelerrorexception": 424,
    "modelnotreadyexception": 429,
    "modelstreamerrorexception": 424,
    "modeltimeoutexception": 408,
    "resourcenotfoundexception": 404,
    "servicequotaexceededexception": 400,
    "serviceunavailableexception": 503,
    "throttlingexception": 429,
    "validationexception": 400,
}
"""HTTP statuses of the exceptions that a stream may hold, too."""

REFUSED_CREDENTIALS = frozenset(
    {
        *("expiredtokenexception", "expiredtoken", "invalidclienttokenid", "invalidsignatureexception"),
        *("incompletesignature", "incompletesignatureexception", "missingauthenticationtoken"),
        *("missingauthenticationtokenexception", "unrecognizedclientexception", "signaturedoesnotmatch"),
    }
)
_KEY = re.compile(r"authentication failed|api key|bearer token|security token", re.IGNORECASE)
_RETURNED = re.compile(r"^The model returned the following errors: ", re.IGNORECASE)
_TOO_LONG = re.compile(
    r"input is too long|too many input tokens|input tokens? exceeded|maximum context length"
    r"|prompt is too long|exceeds? the (?:maximum|model's) (?:context|input|number of tokens)"
    r"|exceed context limit",
    re.IGNORECASE,
)
_LIMITS = (
    re.compile(r"(?P<requested>\d+) tokens > (?P<limit>\d+)"),
    re.compile(r"(?:length|limit|maximum)\D{1,40}?(?P<limit>\d{3,})(?:\D+(?P<requested>\d{3,}))?", re.IGNORECASE),
)
_NO_MODEL = re.compile(
    r"model identifier is invalid|on-demand throughput isn.t supported|reached the end of its life", re.IGNORECASE
)
_EXTRA = re.compile(
    r"extraneous key \[(?P<a>\w{1,60})\]|(?P<b>\w{1,60}): extra inputs are not permitted", re.IGNORECASE
)
_FIELD = re.compile(r"this model does(?:n't| not) support the (?P<field>[\w.]{1,80}) field", re.IGNORECASE)
_PARAMETERS = {"toolChoice": "tool_choice", "toolConfig": "tools", "outputConfig": "response_format"}


def exception_of(headers: Mapping[str, str], body: bytes) -> str:
    """The exception's name in lower case, without its namespace: from the header, or the body's ``__type``."""
    named = headers.get("x-amzn-errortype", "")
    if not named:
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError:
            parsed = None
        named = str(parsed.get("__type") or "") if isinstance(parsed, dict) else ""
    return named.partition(":")[0].rpartition("#")[2].strip().lower()


def read_bedrock_error(
    status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
) -> RoundhouseError:
    """The typed error of ``{"message"}`` with the exception's name in ``x-amzn-errortype``."""
    name = exception_of(headers, body)
    message = scrub(_RETURNED.sub("", _message(body)), upstream)
    where = f"The endpoint '{upstream.endpoint}'"
    match name:
        case _ if name in REFUSED_CREDENTIALS or (status in (401, 403) and _KEY.search(message)):
            return UpstreamRejectedKey(
                f"{where} refused the credentials ({name or status}).", upstream_status=status
            )
        case "accessdeniedexception":
            return forbidden(status, message, upstream, of_model=True)
        case "servicequotaexceededexception":
            return quota_exceeded(status, message, upstream)
        case "throttlingexception":
            return _limited(status, headers, message, upstream)
        case "modelnotreadyexception":
            late = UpstreamOverloaded(
                f"{where} is not ready to serve '{upstream.model}': {message}", upstream_status=status
            )
            late.retry_after = retry_after(headers)
            return late
        case "modeltimeoutexception":
            slow = UpstreamTimeout(f"{where} gave up on the request: {message}", upstream_status=status)
            slow.may_bill = True
            return slow
        case "modelerrorexception" | "modelstreamerrorexception":
            return UpstreamError(f"{where} says that the model failed: {message}", upstream_status=status)
        case "resourcenotfoundexception":
            return _no_model(message, upstream)
        case "validationexception":
            return _invalid(status, headers, message, upstream)
    return read_error(status, headers, orjson.dumps({"message": message}), upstream)


def read_exception(frame: Frame, upstream: Upstream) -> RoundhouseError:
    """The typed error of a frame that holds an exception, or an error of the stream itself."""
    if frame.headers.get(":message-type") == "error":
        text = scrub(frame.headers.get(":error-message", ""), upstream)[:2000]
        return UpstreamError(f"The endpoint '{upstream.endpoint}' failed within its answer: {text}")
    name = frame.headers.get(":exception-type", "")
    status = _STATUS.get(name.lower(), 500)
    return read_bedrock_error(status, {"x-amzn-errortype": name}, frame.payload, upstream)


def _message(body: bytes) -> str:
    details = error_details(body)
    if details.message:
        return details.message
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    return str(parsed.get("Message") or "")[:2000] if isinstance(parsed, dict) else ""


def _limited(status: int, headers: Mapping[str, str], message: str, upstream: Upstream) -> UpstreamRateLimited:
    wait = retry_after(headers)
    limited = UpstreamRateLimited(
        f"The endpoint '{upstream.endpoint}' says that it gets too many requests: {message}",
        upstream_status=status,
        retry_after=delay_in(message) if wait is None else wait,
    )
    limited.scope = "model"  # Bedrock's quotas are of a model in a region
    return limited


def _no_model(message: str, upstream: Upstream) -> ModelUnavailable:
    return ModelUnavailable(
        f"The endpoint '{upstream.endpoint}' does not have the model '{upstream.model}': {message}", param="model"
    )


def _invalid(status: int, headers: Mapping[str, str], message: str, upstream: Upstream) -> RoundhouseError:
    if _NO_MODEL.search(message):
        return _no_model(message, upstream)
    if _TOO_LONG.search(message):
        found = next((hit for pattern in _LIMITS if (hit := pattern.search(message))), None)
        return ContextLengthExceeded(
            model=upstream.model,
            limit=int(found["limit"]) if found else None,
            requested=int(found["requested"]) if found and found["requested"] else None,
        )
    if extra := _EXTRA.search(message):
        return UnsupportedParameter(message, param=extra["a"] or extra["b"])
    if field := _FIELD.match(message):
        name = next((ours for theirs, ours in _PARAMETERS.items() if theirs in field["field"]), None)
        return UnsupportedParameter(message, param=name)
    body = orjson.dumps({"error": {"type": "invalid_request_error", "message": message}})
    return read_anthropic_error(status, headers, body, upstream)
