"""Refusals that pass by themselves: limits, queues, workers that start."""

from __future__ import annotations

from catalog.errors.base import RoundhouseError


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


class NoModels(Unavailable):
    """The server is up, and no model is set up that could answer anything."""

    code = "no_models"
    retryable = False


class Draining(Unavailable):
    """This process is shutting down and accepts no new requests."""

    code = "draining"
    retryable = False
