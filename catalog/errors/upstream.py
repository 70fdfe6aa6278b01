"""Errors of an upstream: a provider, a worker, a hub."""

from __future__ import annotations

from typing import Literal

from catalog.errors.base import RoundhouseError


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
