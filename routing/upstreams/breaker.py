"""Circuit breakers: a model that keeps failing at an endpoint is not called for a while, then probed.

Each (model, endpoint) has one circuit for faults, and one per set of *needs* that the model turned out to lack: a
model that cannot take images still gets plain text. What was learned of a lack belongs to the content of the
model's row and endpoint: a change of either ends it, and so does an answer that proves the contrary.

``FAILED`` is a fault, unless its error says nothing about the upstream (no key, no budget, a full queue of ours,
an answer of the wrong form) or concerns the key that was used or its permissions (401, 403, 429; see
:mod:`routing.upstreams.provider_keys`). ``CANNOT`` counts for the needs alone. ``REFUSAL`` is an answer, hence a
success. ``CANCELLED`` and ``REJECTED`` count for nothing; a probe that ends so frees the probe slot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import Field

from catalog.model import LOCAL_ENDPOINT
from catalog.validation.section import Section
from routing.clock import Clock
from routing.facts import Facts
from routing.outcomes import Outcome, Result
from routing.plan import Block
from routing.upstreams.circuit import Circuit, CircuitState, StoredCircuit

CircuitKey = tuple[str, str]
"""Model id, endpoint name."""

Needs = frozenset[str]
"""The capability, features and parameters that a request uses, by name."""
Fingerprint = Callable[[str], str]
"""Returns a digest of the content of a model's row and its endpoint, by the model's id."""

_KEY_FAULTS = frozenset({"upstream_rate_limited", "upstream_rejected_key"})
_NOT_THE_UPSTREAM = frozenset(
    {
        "model_unavailable", "model_temporarily_unavailable", "service_unavailable", "insufficient_quota",
        "queue_full", "rate_limit_exceeded", "draining", "no_candidate", "answer_invalid", "upstream_forbidden",
    }
)  # fmt: skip
_ONE_REQUEST = frozenset({"request_failed", "stream_broken"})
"""Errors that say nothing about a local model: its supervisor replaces a worker that died or only fails."""
_NO_BLOCKS: Mapping[CircuitKey, Block] = MappingProxyType({})


class BreakerSettings(Section):
    """Conditions under which a circuit opens, and for how long. Times are seconds."""

    consecutive_failures: int = Field(default=5, ge=1, description="faults in a row that open a circuit")
    failure_rate: float = Field(default=0.5, gt=0, le=1, description="share of faults in the window that opens it")
    window: float = Field(default=30.0, gt=0, description="seconds of the window of the failure rate")
    window_minimum: int = Field(default=20, ge=1, description="attempts in the window before the rate is judged")
    open_seconds: float = Field(
        default=2.0, gt=0, description="seconds that a circuit is open the first time; doubles"
    )
    open_seconds_cap: float = Field(
        default=20.0,
        gt=0,
        description="longest time open in seconds: bounds the delay until a recovered upstream is used",
    )
    cannot_failures: int = Field(
        default=2, ge=1, description="'cannot' answers in a row that open a need's circuit"
    )
    cannot_open_seconds: float = Field(
        default=300.0, gt=0, description="seconds that the circuit of a need is open the first time; doubles"
    )
    cannot_open_seconds_cap: float = Field(default=3600.0, gt=0, description="longest such time in seconds")


class Breakers:
    """All circuits of a gateway, in memory; :meth:`export` and :meth:`adopt` share the open ones."""

    kind = "breaker"

    def __init__(
        self, settings: BreakerSettings, clock: Clock, fingerprint: Fingerprint = lambda _model: ""
    ) -> None:
        self._settings = settings
        self._fingerprint = fingerprint
        self._clock = clock
        self._faults: dict[CircuitKey, Circuit] = {}
        self._lacks: dict[CircuitKey, dict[Needs, Circuit]] = {}
        self._learned_of: dict[CircuitKey, str] = {}
        self._open: set[CircuitKey] = set()
        self._changed: set[CircuitKey] = set()
        self._process: Callable[[str], int | None] = lambda _: None
        self._failed_in: dict[CircuitKey, int | None] = {}

    def follow(self, process: Callable[[str], int | None]) -> None:
        """Use ``process(model)``, the id of a local model's process: faults of another are forgotten."""
        self._process = process

    def configure(self, settings: BreakerSettings) -> None:
        """Use other settings, also for the circuits that exist: their counts, and how long they are open, stay."""
        self._settings = settings
        for key, fault in self._faults.items():
            fault.configure(self._new_fault_circuit(key))
        for lacks in self._lacks.values():
            for circuit in lacks.values():
                circuit.configure(self._new_need_circuit())

    def blocked(self, facts: Facts, now: float) -> Mapping[CircuitKey, Block]:
        """The models and endpoints that this request may not be sent to: usually an empty mapping."""
        if not self._open and not self._lacks:
            return _NO_BLOCKS
        blocks: dict[CircuitKey, Block] = {}
        for key in tuple(self._open):
            self._renew(key)
            if not self._faults[key].passes(now):
                fault = self._faults[key]
                rest = max(0.0, (fault.opened_until or now) - now)
                blocks[key] = Block("breaker_open", fault.last_error or "failed repeatedly", rest)
        if self._lacks:
            needs = needs_of(facts) | facts.parameters
            for key in self._outdated():
                self._forget_lacks(key)
            for key, lacks in self._lacks.items():
                for need, circuit in lacks.items():
                    if need <= needs and not circuit.passes(now):
                        names = ", ".join(sorted(need))
                        blocks[key] = Block("breaker_cannot", f"answered that it cannot do: {names}")
        return blocks

    def admit(self, model: str, endpoint: str, facts: Facts, now: float, *, despite_lacks: bool = False) -> bool:
        """Whether an attempt may be made. After ``True`` the caller must :meth:`record` its outcome once.

        ``despite_lacks`` admits a request for what the model was said to lack: its own refusal is the answer to a
        caller who named it, and shows when that has changed.
        """
        key = (model, endpoint)
        fault = self._faults.get(key)
        if fault is None:
            fault = self._faults[key] = self._new_fault_circuit(key)
        need_circuits = self._need_circuits(key, facts)
        if not fault.passes(now):
            return False
        if not despite_lacks and not all(circuit.passes(now) for circuit in need_circuits):
            return False
        fault.admit(facts)
        for circuit in need_circuits:
            circuit.admit(facts)
        return True

    def record(self, outcome: Outcome) -> None:
        """Update the circuits from an attempt that has ended."""
        key = (outcome.model, outcome.endpoint)
        now = self._clock.monotonic()
        fault = self._faults.get(key)
        if fault is None:
            fault = self._faults[key] = self._new_fault_circuit(key)
        if outcome.result is Result.FAILED:
            self._renew(key)
        before = fault.opened_until
        fault.finished(outcome.facts)
        for circuit in self._need_circuits(key, outcome.facts):
            circuit.finished(outcome.facts)
        if outcome.result in (Result.SUCCESS, Result.REFUSAL):
            fault.succeeded(now)
            self._clear_lacks(key, outcome.facts)
        elif outcome.result is Result.CANNOT:
            fault.succeeded(now)
            # A model that splits no text may still answer.
            if not outcome.facts.tokens_only and (need := lacking(outcome)):
                self._record_lack(key, need, outcome.error, now)
        elif outcome.result is Result.FAILED and is_fault(outcome):
            fault.failed(now, _reason(outcome))
        if fault.opened_until != before:
            self._changed.add(key)
            (self._open.discard if fault.opened_until is None else self._open.add)(key)

    def state(self, model: str, endpoint: str, now: float) -> CircuitState:
        """The state of a model's fault circuit."""
        fault = self._faults.get((model, endpoint))
        return CircuitState.CLOSED if fault is None else fault.state(now)

    def states(self) -> Mapping[CircuitKey, CircuitState]:
        """The state of the fault circuit of every model that was called."""
        now = self._clock.monotonic()
        return {key: fault.state(now) for key, fault in self._faults.items()}

    def export(self) -> dict[str, dict[str, Any] | None]:
        """Documents changed since the last export, by ``model\\nendpoint``; ``None`` if all circuits closed."""
        changed, self._changed = self._changed, set()
        return {
            _name(key): self._export(key) if key in self._open or key in self._lacks else None for key in changed
        }

    def adopt(self, documents: Mapping[str, Any]) -> None:
        """Open the circuits that an earlier run or another gateway stored as open.

        Circuits that are open here stay as they are. Invalid documents are skipped: a breaker that starts closed
        costs no more than a few failed attempts.
        """
        now, wall = self._clock.monotonic(), self._clock.wall()
        for name, document in documents.items():
            model, _, endpoint = name.partition("\n")
            try:
                age = max(0.0, wall - float(document["saved_at"]))
                fault = document.get("fault")
                lacks = [
                    (frozenset(str(value)[:80] for value in need), StoredCircuit.parse(circuit, age))
                    for need, circuit in document.get("lacks", ())
                ]
                if document.get("row", "") != self._fingerprint(model):
                    lacks = []
                stored = None if fault is None else StoredCircuit.parse(fault, age)
            except (AttributeError, KeyError, TypeError, ValueError):
                continue
            self._restore((model, endpoint), stored, lacks, now)

    def _renew(self, key: CircuitKey) -> None:
        """Forget the faults of a local model whose process has ended since. Called on the failing path only."""
        if key[1] != LOCAL_ENDPOINT:
            return
        process = self._process(key[0])
        if self._failed_in.setdefault(key, process) == process:
            return
        self._failed_in[key] = process
        self._faults[key].renew()
        if key in self._open:
            self._open.discard(key)
            self._changed.add(key)

    def _restore(
        self,
        key: CircuitKey,
        fault: StoredCircuit | None,
        lacks: list[tuple[Needs, StoredCircuit]],
        now: float,
    ) -> None:
        # A circuit whose time is over is not restored: it would make the next attempt a probe without need.
        # Nor is one of a local model, whose process ended with the run that stored it.
        if fault is not None and fault.open_for > 0 and key not in self._open and key[1] != LOCAL_ENDPOINT:
            circuit = self._faults.setdefault(key, self._new_fault_circuit(key))
            circuit.restore(now, fault)
            self._open.add(key)
        for need, stored in lacks:
            known = self._lacks.get(key, {})
            if stored.open_for > 0 and need not in known:
                circuit = self._new_need_circuit()
                circuit.restore(now, stored)
                self._lacks.setdefault(key, {})[need] = circuit
                self._learned_of[key] = self._fingerprint(key[0])

    def _new_fault_circuit(self, key: CircuitKey) -> Circuit:
        """A circuit without a rate for models on this machine: their supervisor restarts a worker that died, and
        the next answer proves that it is healthy, so only faults in a row count."""
        settings = self._settings
        return Circuit(
            threshold=settings.consecutive_failures,
            first_delay=settings.open_seconds,
            cap=settings.open_seconds_cap,
            rate=None if key[1] == LOCAL_ENDPOINT else settings.failure_rate,
            window=settings.window,
            window_minimum=settings.window_minimum,
        )

    def _new_need_circuit(self) -> Circuit:
        settings = self._settings
        return Circuit(
            threshold=settings.cannot_failures,
            first_delay=settings.cannot_open_seconds,
            cap=settings.cannot_open_seconds_cap,
        )

    def _need_circuits(self, key: CircuitKey, facts: Facts) -> list[Circuit]:
        lacks = self._lacks.get(key)
        if not lacks:
            return []
        needs = needs_of(facts) | facts.parameters
        return [circuit for need, circuit in lacks.items() if need <= needs]

    def _clear_lacks(self, key: CircuitKey, facts: Facts) -> None:
        """A success proves that the model has everything that the request needed."""
        lacks = self._lacks.get(key)
        if not lacks:
            return
        needs = needs_of(facts) | facts.parameters
        for need in [need for need in lacks if need <= needs]:
            del lacks[need]
            self._changed.add(key)
        if not lacks:
            self._forget_lacks(key)

    def _outdated(self) -> list[CircuitKey]:
        """The models whose rows or endpoints have changed since they were said to lack something."""
        return [key for key in self._lacks if self._learned_of[key] != self._fingerprint(key[0])]

    def _forget_lacks(self, key: CircuitKey) -> None:
        self._lacks.pop(key, None)
        self._learned_of.pop(key, None)
        self._changed.add(key)

    def _record_lack(self, key: CircuitKey, need: Needs, error: str | None, now: float) -> None:
        row = self._fingerprint(key[0])
        if self._learned_of.setdefault(key, row) != row:
            self._forget_lacks(key)
            self._learned_of[key] = row
        circuit = self._lacks.setdefault(key, {}).setdefault(need, self._new_need_circuit())
        before = circuit.opened_until
        circuit.failed(now, error)
        if circuit.opened_until != before:
            self._changed.add(key)

    def _export(self, key: CircuitKey) -> dict[str, Any]:
        now = self._clock.monotonic()
        lacks = self._lacks.get(key, {})
        return {
            "saved_at": self._clock.wall(),
            "row": self._learned_of.get(key, ""),
            "fault": self._faults[key].export(now) if key in self._open else None,
            "lacks": [
                [sorted(need), circuit.export(now)]
                for need, circuit in lacks.items()
                if circuit.opened_until is not None
            ],
        }


def needs_of(facts: Facts) -> Needs:
    """Needs of a request, without its parameters. A model that lacks them fails every request with a superset."""
    return facts.features | {facts.capability}


def lacking(outcome: Outcome) -> Needs:
    """Needs that a model which could not answer is not asked for again: those it was said to lack, else all.

    Empty if a plain request was refused for something that it did not use: that says nothing of plain requests.
    """
    facts = outcome.facts
    named = outcome.lacks & (needs_of(facts) | facts.parameters)
    if named:
        return named | {facts.capability}
    return frozenset() if outcome.lacks and not facts.features else needs_of(facts)


def is_fault(outcome: Outcome) -> bool:
    """Whether a failed attempt is evidence that the upstream is unhealthy."""
    if outcome.error in _NOT_THE_UPSTREAM:
        return False
    if outcome.endpoint == LOCAL_ENDPOINT and outcome.error in _ONE_REQUEST:
        return False
    # With a key, the key is at fault; an endpoint without keys that answers 429 is overloaded.
    return outcome.provider_key is None or outcome.error not in _KEY_FAULTS


def _reason(outcome: Outcome) -> str:
    return f"failed repeatedly, last with {outcome.error or 'an error'}"


def _name(key: CircuitKey) -> str:
    return "\n".join(key)
