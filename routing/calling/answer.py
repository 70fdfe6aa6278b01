"""The answer of the candidate that answered first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from backends.wire.headers import header_list, header_value
from routing.calling.attempt import Attempt

T = TypeVar("T")
CHOICE_HEADERS = {
    "x-roundhouse-model": "The model that answered.",
    "x-roundhouse-trace": "The id of the request's trace, for /v1/traces and /v1/outcomes.",
    "x-roundhouse-reason": "The reason for this model.",
    "x-roundhouse-attempts": "The number of attempts, fallbacks included.",
    "x-roundhouse-dropped": "Parameters that the model's server did not take, if any.",
}
"""The response headers about a choice, and what each says."""


class Answer(Generic[T]):
    """An answer whose first item is there: iterate it for the items, in order.

    Iterating raises what :meth:`Attempt.items` raises.
    """

    def __init__(self, attempt: Attempt[T], reason: str) -> None:
        self.attempt = attempt
        self.trace = attempt.job.trace
        self.model = attempt.model
        self.reason = reason
        self.attempts = attempt.number
        self.dropped = attempt.dropped

    def headers(self) -> dict[str, str]:
        """``x-roundhouse-model``, ``-trace``, ``-reason``, ``-attempts`` and, when it applies, ``-dropped``."""
        headers = {
            "x-roundhouse-model": self.model.id,
            "x-roundhouse-trace": self.trace,
            "x-roundhouse-reason": header_value(self.reason),
            "x-roundhouse-attempts": str(self.attempts),
        }
        if self.dropped:
            headers["x-roundhouse-dropped"] = header_list(self.dropped)
        return headers

    def __aiter__(self) -> AsyncIterator[T]:
        return self.attempt.items()
