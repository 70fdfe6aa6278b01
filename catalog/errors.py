"""Every error that Roundhouse raises, in one tree, with its HTTP status and OpenAI's ``type`` and ``code``.

RoundhouseError                     500 server_error
├── ConfigurationError              the process cannot start; the CLI prints one line and exits 1
├── RequestFailed                   500 request_failed: the engine failed at this one request
├── InvalidRequest                  400 invalid_request_error
│   ├── ContextLengthExceeded       400 context_length_exceeded
│   ├── UnsupportedParameter        400 unsupported_parameter
│   ├── CapabilityMismatch          400 model_capability_mismatch: the model lacks the capability
│   │   └── PathMissing             400 model_capability_mismatch: 404 or 405 without a reason
│   ├── UndecodableMedia            400 undecodable_media: not readable as audio or an image
│   ├── MethodNotAllowed            405 method_not_allowed
│   ├── RequestTimeout              408 request_timeout: the body did not arrive in time
│   ├── PayloadTooLarge             413 payload_too_large
│   ├── UnsupportedMediaType        415 unsupported_media_type: the body has another type or encoding
│   ├── HeadersTooLarge             431 headers_too_large
│   ├── PriceUnknown                400 price_unknown: a limit on cost applies
│   └── NoCandidate                 400 no_candidate: every model excluded for good, with the reasons
├── NotAuthenticated                401 invalid_api_key
├── NotPermitted                    403 permission_denied
├── NotFound                        404 not_found
│   ├── ModelNotFound               404 model_not_found, with the nearest names
│   └── ModelUnavailable            404 model_unavailable: not pulled, no key, does not fit
│       └── EngineMissing           404 engine_missing: names the extra to install
├── RateLimited                     429 rate_limit_exceeded, Retry-After
│   ├── QueueFull                   429 queue_full
│   └── BudgetExceeded              429 insufficient_quota
├── Unavailable                     503 service_unavailable, Retry-After
│   ├── ModelTemporarilyUnavailable 503 model_temporarily_unavailable: failed just now, rate limited, no memory
│   ├── WorkerFailed                503 worker_failed: did not start, or died before an answer
│   └── Draining                    503 draining
├── UpstreamError                   502 upstream_error: a provider or a worker answered with an error
│   ├── UpstreamUnreachable         502 upstream_unreachable: DNS, refused, reset before a byte
│   ├── UpstreamProtocolError       502 upstream_protocol_error: the answer violates its protocol
│   ├── UpstreamRejectedKey         502 upstream_rejected_key: 401 from the provider
│   ├── UpstreamForbidden           403 upstream_forbidden: the model or the request is not permitted there
│   ├── UpstreamRateLimited         429 upstream_rate_limited, Retry-After
│   │   └── UpstreamQuotaExceeded   429 insufficient_quota: the provider's account is used up
│   ├── UpstreamOverloaded          503 upstream_overloaded, Retry-After
│   ├── StreamBroken                502 stream_broken: ended before its finish_reason
│   ├── AnswerInvalid               502 answer_invalid: the answer lacks the form that was asked for
│   └── UpstreamTimeout             504 upstream_timeout
│       ├── ConnectTimeout          504 connect_timeout
│       ├── FirstByteTimeout        504 first_byte_timeout
│       ├── IdleTimeout             504 idle_timeout: too long between two chunks
│       └── TotalTimeout            504 total_timeout
└── PullError                       502 pull_failed: a model could not be fetched
    └── ChecksumMismatch            502 checksum_mismatch
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from catalog.installing import install_command


class RoundhouseError(Exception):
    """The base class. ``message`` states the problem and its remedy, in one or two sentences.

    ``retryable`` means that *another candidate* may succeed. ``trace`` is the id of its trace, if it has one.
    ``quotes``: the message may repeat words of the request or an upstream, and is for the caller alone.
    """

    status: int = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"
    retryable: ClassVar[bool] = False
    usual_retry_after: ClassVar[float | None] = None
    """Default seconds of ``Retry-After``; ``None`` where waiting does not help."""
    trace: str | None = None
    quotes: bool = False

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def to_body(self) -> dict[str, Any]:
        """Return OpenAI's error object: ``{"error": {"message", "type", "param", "code"}}``."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return this error's response headers; ``Retry-After`` is in whole seconds, at least 1."""
        seconds = self.usual_retry_after if self.retry_after is None else self.retry_after
        headers = {} if seconds is None else {"Retry-After": str(max(1, round(seconds)))}
        return headers if self.trace is None else {**headers, "x-roundhouse-trace": self.trace}


class ConfigurationError(RoundhouseError):
    """The process cannot start because of its settings, files or folders."""

    code = "configuration_error"


class RequestFailed(RoundhouseError):
    """A model's engine raised an exception at this request, and goes on serving others."""

    code = "request_failed"
    retryable = True


# ---- errors of the request


class InvalidRequest(RoundhouseError):
    """The request is invalid; sending it again will not help.

    ``lacks``, if an upstream said that the model cannot do this, names the capabilities and parameters that it
    lacks; empty if it named none. Another model may answer, and this one is not asked for them again for a while.
    ``inner`` is the provider's own account of the refusal (Azure's ``innererror``), and ``code`` may be its code.
    """

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    lacks: frozenset[str] | None = None
    inner: dict[str, Any] | None = None

    def to_body(self) -> dict[str, Any]:
        body = super().to_body()
        if self.inner is not None:
            body["error"]["innererror"] = self.inner
        return body


class ContextLengthExceeded(InvalidRequest):
    """The prompt does not fit the model's context window."""

    code = "context_length_exceeded"

    def __init__(self, *, model: str, limit: int | None, requested: int | None, param: str = "messages") -> None:
        super().__init__("", param=param)
        self.model = model
        self.limit = limit
        self.requested = requested
        self._say()

    @classmethod
    def told(cls, message: str) -> ContextLengthExceeded:
        """Make the error of several models from a message with their numbers."""
        error = cls(model="auto", limit=None, requested=None)
        error.message = message
        error.args = (message,)
        return error

    def complete(self, *, limit: int | None, estimate: int) -> None:
        """Fill in the row's limit and the estimated tokens: if the server gave no number, and they explain it."""
        if self.limit is None and self.requested is None and limit is not None and estimate > limit:
            self.limit, self.requested = limit, estimate
            self._say("about ")

    def _say(self, about: str = "") -> None:
        bound = f"is {self.limit} tokens, but" if self.limit is not None else "is exceeded:"
        needs = f"{about}{self.requested} tokens" if self.requested is not None else "more than that"
        self.message = (
            f"This model's maximum context length {bound} the request needs {needs} ('{self.model}'). "
            "Shorten the prompt or choose a model with a larger context window."
        )
        self.args = (self.message,)


class UnsupportedParameter(InvalidRequest):
    """The model or endpoint does not support a parameter, which is refused rather than ignored."""

    code = "unsupported_parameter"


class CapabilityMismatch(InvalidRequest):
    """The named model lacks the requested capability; the message lists models that have it."""

    code = "model_capability_mismatch"


class PathMissing(CapabilityMismatch):
    """An upstream answered 404 or 405, not about the model: it lacks the path, or its proxy is at fault."""

    upstream_status: int | None = None


class UndecodableMedia(InvalidRequest):
    """The data cannot be decoded as the audio or image that it is declared to be."""

    code = "undecodable_media"


class PayloadTooLarge(InvalidRequest):
    """The body, or a file in it, exceeds its size limit."""

    status = 413
    code = "payload_too_large"


class MethodNotAllowed(InvalidRequest):
    """The path exists, but not for this method."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(InvalidRequest):
    """The client did not send its body in time."""

    status = 408
    code = "request_timeout"


class UnsupportedMediaType(InvalidRequest):
    """The body has a content type or encoding that this endpoint does not accept."""

    status = 415
    code = "unsupported_media_type"


class HeadersTooLarge(InvalidRequest):
    """The request's headers exceed the limits of number or length."""

    status = 431
    code = "headers_too_large"


class PriceUnknown(InvalidRequest):
    """A limit on cost applies, and the model's price is unknown; another candidate may have one."""

    code = "price_unknown"
    retryable = True
    reason: ClassVar[str] = (
        "its price is unknown, and a limit on cost applies. Give its row a price, "
        "or set spend.unknown_price to 'allow'"
    )


class NoCandidate(InvalidRequest):
    """The router excluded every model, for reasons that do not pass by themselves; the message gives them."""

    code = "no_candidate"


class NotAuthenticated(RoundhouseError):
    """The API key is missing or unknown."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "WWW-Authenticate": "Bearer"}


class NotPermitted(RoundhouseError):
    """The API key is valid but lacks the permission."""

    status = 403
    type = "permission_error"
    code = "permission_denied"

    @classmethod
    def of_model(cls, model: str) -> NotPermitted:
        """Make the error of a key that is bound to other models."""
        return cls(f"This key may not use the model '{model}'.")


class NotFound(RoundhouseError):
    """The path or object does not exist."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """No model has this id, name or alias."""

    code = "model_not_found"
    where: ClassVar[str] = "GET /v1/models lists the models."

    def __init__(self, name: str, *, nearest: tuple[str, ...] = ()) -> None:
        hint = f" Did you mean {', '.join(repr(n) for n in nearest)}?" if nearest else ""
        super().__init__(f"The model {name[:200]!r} does not exist.{hint} {self.where}", param="model")
        self.nearest = nearest


class ModelUnavailable(NotFound):
    """The model is known, but is not pulled, has no key, or exceeds the device's memory: waiting does not help."""

    code = "model_unavailable"
    retryable = True


class EngineMissing(ModelUnavailable):
    """The engine's package is not installed, or no engine has this name."""

    code = "engine_missing"

    def __init__(self, engine: str, *, extra: str, package: str | None = None, python: str | None = None) -> None:
        missing = f" ({package} is missing)" if package else ""
        command = install_command(extra, python=python)
        super().__init__(f"The engine '{engine}' is not installed{missing}. Install it with: {command}")
        self.engine = engine
        self.extra = extra

    @classmethod
    def told(cls, message: str, *, engine: str = "") -> EngineMissing:
        """Make the error from a message that was composed earlier."""
        error = cls(engine, extra="")
        error.message = message
        error.args = (message,)
        error.param = "model"
        return error


# ---- temporary refusals


class RateLimited(RoundhouseError):
    """The caller exceeds a limit of requests, tokens or concurrency."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class QueueFull(RateLimited):
    """The model's queue is full; another candidate may have room."""

    code = "queue_full"
    usual_retry_after = 1.0
    retryable = True


class BudgetExceeded(RateLimited):
    """The request would exceed a spending cap."""

    type = "insufficient_quota"
    code = "insufficient_quota"
    retryable = True


class Unavailable(RoundhouseError):
    """The service or one model cannot answer at present."""

    status = 503
    code = "service_unavailable"
    retryable = True


class ModelTemporarilyUnavailable(Unavailable):
    """A model failed just now, its keys are rate limited, or no memory is free for it."""

    code = "model_temporarily_unavailable"


class WorkerFailed(Unavailable):
    """A local worker did not start, or died before it answered."""

    code = "worker_failed"
    usual_retry_after = 1.0


class Draining(Unavailable):
    """This process is shutting down and accepts no new requests."""

    code = "draining"
    retryable = False


# ---- errors of an upstream


class UpstreamError(RoundhouseError):
    """An upstream answered with an error or violated its protocol.

    ``upstream_status`` is its HTTP status, if it sent one. ``scope`` is what a rate limit or a refusal of the key
    applies to, if the upstream says so: the model, or the key with every model. ``may_bill`` means that the
    upstream had the whole request and did not refuse it, so it may have done the work and billed it.
    """

    status = 502
    type = "upstream_error"
    code = "upstream_error"
    retryable = True
    scope: Literal["model", "key"] | None = None
    may_bill: bool = False

    def __init__(
        self,
        message: str,
        *,
        upstream_status: int | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after=retry_after)
        self.upstream_status = upstream_status


class UpstreamUnreachable(UpstreamError):
    """The connection failed: DNS, refused, or reset before the first byte."""

    code = "upstream_unreachable"


class UpstreamProtocolError(UpstreamError):
    """The answer does not follow the protocol that this upstream should speak."""

    code = "upstream_protocol_error"
    may_bill = True


class UpstreamRejectedKey(UpstreamError):
    """The provider refused Roundhouse's key (401, or a code of its own for that)."""

    code = "upstream_rejected_key"


class UpstreamForbidden(UpstreamError):
    """The provider answered 403: its key may not use the model (``scope`` is "model"), or not in this way."""

    status = 403
    type = "permission_error"
    code = "upstream_forbidden"


class UpstreamRateLimited(UpstreamError):
    """The provider answered 429."""

    status = 429
    code = "upstream_rate_limited"
    usual_retry_after = 1.0


class UpstreamQuotaExceeded(UpstreamRateLimited):
    """The account of the provider's key is used up: its credit, or its limit of spending."""

    type = "insufficient_quota"
    code = "insufficient_quota"
    usual_retry_after = 300.0


class UpstreamOverloaded(UpstreamError):
    """The provider answered 503 or 529."""

    status = 503
    code = "upstream_overloaded"
    usual_retry_after = 1.0


class StreamBroken(UpstreamError):
    """A stream ended without a finish reason, so the answer is incomplete."""

    code = "stream_broken"
    may_bill = True


class AnswerInvalid(UpstreamError):
    """A finished answer does not have the form that the request asks for, such as its JSON schema."""

    code = "answer_invalid"
    may_bill = True


class UpstreamTimeout(UpstreamError):
    """The upstream took too long."""

    status = 504
    code = "upstream_timeout"


class ConnectTimeout(UpstreamTimeout):
    """The connection was not established in time."""

    code = "connect_timeout"


class FirstByteTimeout(UpstreamTimeout):
    """The connection was established, but the first chunk did not arrive in time."""

    code = "first_byte_timeout"


class IdleTimeout(UpstreamTimeout):
    """The time between two chunks exceeded its limit."""

    code = "idle_timeout"
    may_bill = True


class TotalTimeout(UpstreamTimeout):
    """The call as a whole exceeded its time limit."""

    code = "total_timeout"
    may_bill = True


class PullError(RoundhouseError):
    """A model could not be fetched."""

    status = 502
    code = "pull_failed"
