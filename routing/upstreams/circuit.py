"""One circuit breaker as a state machine over time; it knows nothing of models and endpoints.

=============  ==========================================================================================
closed         attempts pass; faults are counted, in a row and as a rate over a sliding window
open           no attempt passes until a delay is over; the delay doubles each time, up to a cap
half-open      one attempt, the probe, passes; its success closes the circuit, its fault opens it again
=============  ==========================================================================================

The pattern is Nygard's ("Release It!", chapter on stability patterns).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from routing.facts import Facts


class CircuitState(StrEnum):
    """State of a circuit. An open one whose delay is over counts as half-open."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class StoredCircuit(NamedTuple):
    """An open circuit as read from a document: seconds left open (negative: over), delay and last error."""

    open_for: float
    delay: float
    error: str | None

    @classmethod
    def parse(cls, document: Mapping[str, Any], age: float) -> StoredCircuit:
        """Read the document of :meth:`Circuit.export`, written ``age`` seconds ago.

        Raises AttributeError, KeyError, TypeError or ValueError if it is damaged.
        """
        error = document.get("error")
        open_for, delay = float(document["open_for"]) - age, float(document["delay"])
        if not (math.isfinite(open_for) and math.isfinite(delay)):
            raise ValueError("not a time")
        return cls(open_for, delay, None if error is None else str(error)[:200])


class Circuit:
    """A circuit that opens after ``threshold`` faults in a row.

    With a ``rate`` it also opens when that share of at least ``window_minimum`` attempts within ``window`` seconds
    were faults. It stays open for ``first_delay`` seconds, then for twice as long after each failed probe, up to
    ``cap``. ``now`` is monotonic time everywhere.
    """

    __slots__ = (
        "_cap",
        "_delay",
        "_first_delay",
        "_in_flight",
        "_probe",
        "_rate",
        "_recent",
        "_threshold",
        "_window",
        "_window_minimum",
        "failures",
        "last_error",
        "opened_until",
    )

    def __init__(
        self,
        *,
        threshold: int,
        first_delay: float,
        cap: float,
        rate: float | None = None,
        window: float = 0.0,
        window_minimum: int = 0,
    ) -> None:
        self._threshold = threshold
        self._first_delay = first_delay
        self._cap = cap
        self._rate = rate
        self._window = window
        self._window_minimum = window_minimum
        self._delay = first_delay
        self._recent: deque[tuple[float, bool]] = deque(maxlen=max(1000, window_minimum))
        self._in_flight = 0
        self._probe: Facts | None = None
        self.failures = 0
        self.opened_until: float | None = None
        self.last_error: str | None = None

    def configure(self, like: Circuit) -> None:
        """Take the thresholds and delays of another circuit."""
        self._threshold = like._threshold
        self._first_delay = like._first_delay
        self._cap = like._cap
        self._rate = like._rate
        self._window = like._window
        self._window_minimum = like._window_minimum
        self._recent = deque(self._recent, maxlen=like._recent.maxlen)
        kept = self._first_delay if self.opened_until is None else self._delay
        self._delay = min(max(kept, self._first_delay), self._cap)

    def state(self, now: float) -> CircuitState:
        if self.opened_until is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if now < self.opened_until else CircuitState.HALF_OPEN

    def passes(self, now: float) -> bool:
        return self.opened_until is None or (now >= self.opened_until and self._probe is None)

    def admit(self, facts: Facts) -> None:
        """Count an attempt that passes; in half-open it becomes the probe."""
        self._in_flight += 1
        if self.opened_until is not None:
            self._probe = facts

    def finished(self, facts: Facts) -> None:
        """An attempt has ended. Frees the probe slot if it was the probe or none is in flight."""
        self._in_flight = max(0, self._in_flight - 1)
        if self._probe is facts or self._in_flight == 0:
            self._probe = None

    def succeeded(self, now: float) -> None:
        if self.opened_until is not None and now < self.opened_until:
            return  # the attempt began before the circuit opened, so it does not prove a recovery
        self.failures = 0
        if self.opened_until is not None:
            self._close()
        elif self._rate is not None:
            self._recent.append((now, True))

    def failed(self, now: float, error: str | None) -> None:
        self.last_error = error
        if self.opened_until is not None:
            if now >= self.opened_until:
                self._delay = min(self._cap, self._delay * 2)
                self._open(now)
            return
        self.failures += 1
        self._recent.append((now, False))
        if self.failures >= self._threshold or self._over_rate(now):
            self._open(now)

    def renew(self) -> None:
        """Close it and forget its faults; attempts in flight stay counted."""
        self.failures = 0
        self.last_error = None
        self._close()

    def export(self, now: float) -> dict[str, Any]:
        """The JSON document of an open circuit, with times relative to now."""
        assert self.opened_until is not None
        left = max(0.0, self.opened_until - now)
        return {"open_for": left, "delay": self._delay, "error": self.last_error}

    def restore(self, now: float, stored: StoredCircuit) -> None:
        """Open the circuit as it was stored."""
        self._delay = min(self._cap, max(self._first_delay, stored.delay))
        self.opened_until = now + min(self._cap, max(0.0, stored.open_for))
        self.last_error = stored.error

    def _over_rate(self, now: float) -> bool:
        if self._rate is None:
            return False
        while self._recent and self._recent[0][0] <= now - self._window:
            self._recent.popleft()
        if len(self._recent) < self._window_minimum:
            return False
        faults = sum(1 for _, succeeded in self._recent if not succeeded)
        return faults / len(self._recent) >= self._rate

    def _open(self, now: float) -> None:
        self.opened_until = now + self._delay
        self._probe = None

    def _close(self) -> None:
        self.opened_until = None
        self._probe = None
        self._delay = self._first_delay
        self._recent.clear()
