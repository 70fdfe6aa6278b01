"""The answer of the candidate that answered first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from routing.calling.attempt import Attempt

T = TypeVar("T")


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
            "x-roundhouse-reason": self.reason.encode("ascii", "replace").decode().replace("\n", " "),
            "x-roundhouse-attempts": str(self.attempts),
        }
        if self.dropped:
            headers["x-roundhouse-dropped"] = ", ".join(self.dropped)
        return headers

    def __aiter__(self) -> AsyncIterator[T]:
        return self.attempt.items()
