"""Circuit breakers: a model at an endpoint that keeps failing is left alone for a while, then tried once.

Each (model, endpoint) has one circuit for faults, and one more for each *need* that the model turned out
not to have: a model that cannot take images is still asked for plain text.

=============  ==========================================================================================
closed         attempts pass; faults are counted, in a row and as a rate over a sliding window
open           nothing passes until a delay is over; the delay doubles each time up to a cap
half-open      one attempt, the probe, passes; its success closes the circuit, its fault opens it again
=============  ==========================================================================================

What counts: ``FAILED`` is a fault, unless its error says nothing about the upstream (no key, no budget, a
full queue of our own) or is laid on the key that was used (401, 403, 429:
:mod:`routing.upstreams.provider_keys` deals with those). ``CANNOT`` counts for the need alone. ``REFUSAL`` is
an answer, hence healthy. ``CANCELLED`` and ``REJECTED`` say nothing; a probe that ends so frees the probe's slot.

The pattern is Nygard's ("Release It!", chapter on stability patterns).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from catalog.model import LOCAL_ENDPOINT, Capability
from routing.clock import Clock
from routing.facts import Facts
from routing.outcomes import Outcome, Result
from routing.plan import Block

CircuitKey = tuple[str, str]
"""Model id, endpoint name."""

Needs = frozenset[Capability]
"""The endpoint and the features that a request uses."""

_KEY_FAULTS = frozenset({"upstream_rate_limited", "upstream_rejected_key"})
_NOT_THE_UPSTREAM = frozenset(
    {"model_unavailable", "insufficient_quota", "queue_full", "rate_limit_exceeded", "draining", "no_candidate"}
)
_NOTHING: Mapping[CircuitKey, Block] = MappingProxyType({})


class BreakerSettings(BaseModel):
    """When a circuit opens and for how long. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    consecutive_failures: int = Field(default=5, ge=1, description="faults in a row that open a circuit")
    failure_rate: float = Field(default=0.5, gt=0, le=1, description="share of faults in the window that opens it")
    window: float = Field(default=30.0, gt=0, description="length of the window of the failure rate")
    window_minimum: int = Field(default=20, ge=1, description="attempts in the window before the rate is judged")
    open_seconds: float = Field(default=2.0, gt=0, description="first time open; doubles")
    open_seconds_cap: float = Field(
        default=20.0, gt=0, description="so long at most: a healed upstream is soon back"
    )
    cannot_failures: int = Field(
        default=2, ge=1, description="'cannot' answers in a row that open a need's circuit"
    )
    cannot_open_seconds: float = Field(default=300.0, gt=0, description="first time open for a need; doubles")
    cannot_open_seconds_cap: float = Field(default=3600.0, gt=0)


class CircuitState(StrEnum):
    """Where a circuit is. An open one whose delay is over counts as half-open."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class _Circuit:
    """The automaton alone: it knows thresholds and times, and nothing of models."""

    __slots__ = (
        "_cap",
        "_delay",
        "_first_delay",
        "_rate",
        "_recent",
        "_threshold",
        "_window",
        "_window_minimum",
        "failures",
        "in_flight",
        "last_error",
        "opened_until",
        "probe",
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
        self.failures = 0
        self.in_flight = 0
        self.opened_until: float | None = None
        self.probe: Facts | None = None
        self.last_error: str | None = None

    def state(self, now: float) -> CircuitState:
        if self.opened_until is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if now < self.opened_until else CircuitState.HALF_OPEN

    def passes(self, now: float) -> bool:
        return self.opened_until is None or (now >= self.opened_until and self.probe is None)

    def admit(self, facts: Facts) -> None:
        """Count an attempt that may pass; in half-open it is the probe."""
        self.in_flight += 1
        if self.opened_until is not None:
            self.probe = facts

    def left(self, facts: Facts) -> None:
        """An attempt has ended; the probe's place is free again if it was the probe, or if none is out."""
        self.in_flight = max(0, self.in_flight - 1)
        if self.probe is facts or self.in_flight == 0:
            self.probe = None

    def succeeded(self, now: float) -> None:
        if self.opened_until is not None and now < self.opened_until:
            return  # an attempt from before the circuit opened: too old to prove that it is well again
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

    def _over_rate(self, now: float) -> bool:
        if self._rate is None:
            return False
        while self._recent and self._recent[0][0] <= now - self._window:
            self._recent.popleft()
        if len(self._recent) < self._window_minimum:
            return False
        faults = sum(1 for _, well in self._recent if not well)
        return faults / len(self._recent) >= self._rate

    def _open(self, now: float) -> None:
        self.opened_until = now + self._delay
        self.probe = None

    def _close(self) -> None:
        self.opened_until = None
        self.probe = None
        self._delay = self._first_delay
        self._recent.clear()

    def export(self, now: float) -> dict[str, Any]:
        assert self.opened_until is not None
        left = max(0.0, self.opened_until - now)
        return {"open_for": left, "delay": self._delay, "error": self.last_error}

    def restore(self, now: float, open_for: float, delay: float, error: str | None) -> None:
        self._delay = min(self._cap, max(self._first_delay, delay))
        self.opened_until = now + min(self._cap, max(0.0, open_for))
        self.last_error = error


class Breakers:
    """All circuits of a gateway. In memory; :meth:`export` and :meth:`adopt` carry open ones elsewhere."""

    kind = "breaker"

    def __init__(self, settings: BreakerSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._faults: dict[CircuitKey, _Circuit] = {}
        self._lacks: dict[CircuitKey, dict[Needs, _Circuit]] = {}
        self._open: set[CircuitKey] = set()
        self._changed: set[CircuitKey] = set()

    def blocked(self, facts: Facts, now: float) -> Mapping[CircuitKey, Block]:
        """The circuits that let this request through to nobody: usually an empty mapping."""
        if not self._open and not self._lacks:
            return _NOTHING
        out: dict[CircuitKey, Block] = {}
        for key in self._open:
            if not self._faults[key].passes(now):
                out[key] = Block("breaker_open", self._faults[key].last_error or "failed repeatedly")
        if self._lacks:
            needs = needs_of(facts)
            for key, lacks in self._lacks.items():
                for need, circuit in lacks.items():
                    if need <= needs and not circuit.passes(now):
                        names = ", ".join(sorted(need))
                        out[key] = Block("breaker_cannot", f"answered that it cannot do: {names}")
        return out

    def admit(self, model: str, endpoint: str, facts: Facts, now: float) -> bool:
        """Whether an attempt may be made. ``True`` obliges the caller to :meth:`record` its outcome once."""
        key = (model, endpoint)
        fault = self._faults.get(key)
        if fault is None:
            fault = self._faults[key] = self._fault_circuit(key)
        lacking = self._lacking(key, facts)
        if not fault.passes(now) or not all(circuit.passes(now) for circuit in lacking):
            return False
        fault.admit(facts)
        for circuit in lacking:
            circuit.admit(facts)
        return True

    def record(self, outcome: Outcome) -> None:
        """Learn from an attempt that has ended."""
        key = (outcome.model, outcome.endpoint)
        now = self._clock.monotonic()
        fault = self._faults.get(key)
        if fault is None:
            fault = self._faults[key] = self._fault_circuit(key)
        before = fault.opened_until
        fault.left(outcome.facts)
        for circuit in self._lacking(key, outcome.facts):
            circuit.left(outcome.facts)
        if outcome.result in (Result.SUCCESS, Result.REFUSAL):
            fault.succeeded(now)
            self._can(key, outcome.facts, now)
        elif outcome.result is Result.CANNOT:
            fault.succeeded(now)
            self._cannot(key, outcome, now)
        elif outcome.result is Result.FAILED and is_fault(outcome):
            fault.failed(now, _reason(outcome))
        if fault.opened_until != before:
            self._changed.add(key)
            (self._open.discard if fault.opened_until is None else self._open.add)(key)

    def state(self, model: str, endpoint: str, now: float) -> CircuitState:
        """The state of a model's circuit for faults."""
        fault = self._faults.get((model, endpoint))
        return CircuitState.CLOSED if fault is None else fault.state(now)

    def states(self) -> Mapping[CircuitKey, CircuitState]:
        """The circuits for faults of every model that was tried, as they are now."""
        now = self._clock.monotonic()
        return {key: fault.state(now) for key, fault in self._faults.items()}

    def forget(self, model: str, endpoint: str) -> None:
        """Drop what is known of a model, because it or its endpoint was set up anew."""
        key = (model, endpoint)
        if self._faults.pop(key, None) is not None or key in self._lacks:
            self._changed.add(key)
        self._lacks.pop(key, None)
        self._open.discard(key)

    def to_state(self) -> dict[str, Any]:
        """Every circuit that is not closed, by ``model\\nendpoint``; times are relative to ``saved_at``."""
        keys = self._open | self._lacks.keys()
        return {_name(key): self._export(key) for key in sorted(keys)}

    def export(self) -> dict[str, dict[str, Any] | None]:
        """What changed since the last export; ``None`` for a circuit that closed."""
        changed, self._changed = self._changed, set()
        return {
            _name(key): self._export(key) if key in self._open or key in self._lacks else None for key in changed
        }

    def adopt(self, documents: Mapping[str, Any]) -> None:
        """Take over open circuits that were stored by an earlier run or by another gateway.

        One that is known to be open here stays as it is. A document that is not understood is passed over:
        a breaker that starts closed costs a few failed attempts and nothing else.
        """
        now, wall = self._clock.monotonic(), self._clock.wall()
        for name, document in documents.items():
            model, _, endpoint = name.partition("\n")
            try:
                age = max(0.0, wall - float(document["saved_at"]))
                fault = document.get("fault")
                lacks = [
                    (frozenset(Capability(value) for value in need), _stored(circuit, age))
                    for need, circuit in document.get("lacks", ())
                ]
                stored = None if fault is None else _stored(fault, age)
            except (AttributeError, KeyError, TypeError, ValueError):
                continue
            self._take_over((model, endpoint), stored, lacks, now)

    def _take_over(
        self,
        key: CircuitKey,
        fault: tuple[float, float, str | None] | None,
        lacks: list[tuple[Needs, tuple[float, float, str | None]]],
        now: float,
    ) -> None:
        # What has run out is not taken over: it would only make the next attempt a probe for no reason.
        if fault is not None and fault[0] > 0 and key not in self._open:
            circuit = self._faults.setdefault(key, self._fault_circuit(key))
            circuit.restore(now, *fault)
            self._open.add(key)
        for need, stored in lacks:
            known = self._lacks.get(key, {})
            if stored[0] > 0 and need not in known:
                circuit = self._need_circuit()
                circuit.restore(now, *stored)
                self._lacks.setdefault(key, {})[need] = circuit

    def _fault_circuit(self, key: CircuitKey) -> _Circuit:
        """A worker that died is started anew by its supervisor, and an answer proves that it is well: for those
        of this machine only faults in a row count, not their share of the last attempts."""
        settings = self._settings
        return _Circuit(
            threshold=settings.consecutive_failures,
            first_delay=settings.open_seconds,
            cap=settings.open_seconds_cap,
            rate=None if key[1] == LOCAL_ENDPOINT else settings.failure_rate,
            window=settings.window,
            window_minimum=settings.window_minimum,
        )

    def _need_circuit(self) -> _Circuit:
        settings = self._settings
        return _Circuit(
            threshold=settings.cannot_failures,
            first_delay=settings.cannot_open_seconds,
            cap=settings.cannot_open_seconds_cap,
        )

    def _lacking(self, key: CircuitKey, facts: Facts) -> list[_Circuit]:
        lacks = self._lacks.get(key)
        if not lacks:
            return []
        needs = needs_of(facts)
        return [circuit for need, circuit in lacks.items() if need <= needs]

    def _can(self, key: CircuitKey, facts: Facts, now: float) -> None:
        """A success shows that nothing the request needed is lacking."""
        lacks = self._lacks.get(key)
        if not lacks:
            return
        needs = needs_of(facts)
        for need in [need for need in lacks if need <= needs]:
            lacks[need].succeeded(now)
            if lacks[need].opened_until is None:
                del lacks[need]
                self._changed.add(key)
        if not lacks:
            del self._lacks[key]

    def _cannot(self, key: CircuitKey, outcome: Outcome, now: float) -> None:
        circuit = self._lacks.setdefault(key, {}).setdefault(needs_of(outcome.facts), self._need_circuit())
        before = circuit.opened_until
        circuit.failed(now, outcome.error)
        if circuit.opened_until != before:
            self._changed.add(key)

    def _export(self, key: CircuitKey) -> dict[str, Any]:
        now = self._clock.monotonic()
        lacks = self._lacks.get(key, {})
        return {
            "saved_at": self._clock.wall(),
            "fault": self._faults[key].export(now) if key in self._open else None,
            "lacks": [
                [sorted(need), circuit.export(now)]
                for need, circuit in lacks.items()
                if circuit.opened_until is not None
            ],
        }


def needs_of(facts: Facts) -> Needs:
    """What a request needs of a model. A model that lacks some of it lacks it for every request with more."""
    return facts.features | {facts.capability}


def is_fault(outcome: Outcome) -> bool:
    """Whether a failed attempt says that the upstream is not well."""
    if outcome.error in _NOT_THE_UPSTREAM:
        return False
    # With a key, the key is at fault; an endpoint without keys that says 429 is simply too busy.
    return outcome.provider_key is None or outcome.error not in _KEY_FAULTS


def _reason(outcome: Outcome) -> str:
    return f"failed repeatedly, last with {outcome.error or 'an error'}"


def _name(key: CircuitKey) -> str:
    return "\n".join(key)


def _stored(circuit: Mapping[str, Any], age: float) -> tuple[float, float, str | None]:
    error = circuit.get("error")
    open_for, delay = float(circuit["open_for"]) - age, float(circuit["delay"])
    if not (abs(open_for) < float("inf") and abs(delay) < float("inf")):
        raise ValueError("not a time")
    return open_for, delay, None if error is None else str(error)[:200]
