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
│       ├── ModelTooLarge           404 model_unavailable: needs more memory than a device has
│       └── EngineMissing           404 engine_missing: names the extra to install
├── RateLimited                     429 rate_limit_exceeded, Retry-After
│   ├── QueueFull                   429 queue_full
│   └── BudgetExceeded              429 insufficient_quota
├── Unavailable                     503 service_unavailable, Retry-After
│   ├── ModelTemporarilyUnavailable 503 model_temporarily_unavailable: failed just now, rate limited, no memory
│   ├── WorkerFailed                503 worker_failed: did not start, or died before an answer
│   ├── NoModels                    503 no_models
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

from catalog.errors.base import (
    ConfigurationError,
    RequestFailed,
    RoundhouseError,
)
from catalog.errors.refusals import (
    BudgetExceeded,
    Draining,
    ModelTemporarilyUnavailable,
    NoModels,
    QueueFull,
    RateLimited,
    Unavailable,
    WorkerFailed,
)
from catalog.errors.request import (
    CapabilityMismatch,
    ContextLengthExceeded,
    EngineMissing,
    HeadersTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    ModelTooLarge,
    ModelUnavailable,
    NoCandidate,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    PathMissing,
    PayloadTooLarge,
    PriceUnknown,
    RequestTimeout,
    UndecodableMedia,
    UnsupportedMediaType,
    UnsupportedParameter,
)
from catalog.errors.upstream import (
    AnswerInvalid,
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    PullError,
    StreamBroken,
    TotalTimeout,
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

__all__ = [
    "AnswerInvalid",
    "BudgetExceeded",
    "CapabilityMismatch",
    "ConfigurationError",
    "ConnectTimeout",
    "ContextLengthExceeded",
    "Draining",
    "EngineMissing",
    "FirstByteTimeout",
    "HeadersTooLarge",
    "IdleTimeout",
    "InvalidRequest",
    "MethodNotAllowed",
    "ModelNotFound",
    "ModelTemporarilyUnavailable",
    "ModelTooLarge",
    "ModelUnavailable",
    "NoCandidate",
    "NoModels",
    "NotAuthenticated",
    "NotFound",
    "NotPermitted",
    "PathMissing",
    "PayloadTooLarge",
    "PriceUnknown",
    "PullError",
    "QueueFull",
    "RateLimited",
    "RequestFailed",
    "RequestTimeout",
    "RoundhouseError",
    "StreamBroken",
    "TotalTimeout",
    "Unavailable",
    "UndecodableMedia",
    "UnsupportedMediaType",
    "UnsupportedParameter",
    "UpstreamError",
    "UpstreamForbidden",
    "UpstreamOverloaded",
    "UpstreamProtocolError",
    "UpstreamQuotaExceeded",
    "UpstreamRateLimited",
    "UpstreamRejectedKey",
    "UpstreamTimeout",
    "UpstreamUnreachable",
    "WorkerFailed",
]
