"""Breakers: the outcomes that open them, those that do not, and the single probe that closes them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from catalog.model import LOCAL_ENDPOINT, Capability
from routing.facts import Facts
from routing.outcomes import Result
from routing.upstreams.breaker import Breakers, BreakerSettings, needs_of
from routing.upstreams.circuit import CircuitState
from tests.routing.clocks import ManualClock
from tests.routing.outcome_factory import CHAT, outcome

KEY = ("model", "endpoint")
TOOLS = replace(CHAT, features=frozenset({Capability.TOOLS}))
TOOLS_AND_VISION = replace(CHAT, features=frozenset({Capability.TOOLS, Capability.VISION}))
VISION = replace(CHAT, features=frozenset({Capability.VISION}))


class BreakerHarness:
    """Breakers of one model, with its clock."""

    def __init__(self, **settings: float) -> None:
        self.clock = ManualClock()
        self.breakers = Breakers(BreakerSettings.model_validate(settings), self.clock)

    def admit(self, facts: Facts = CHAT) -> bool:
        return self.breakers.admit(*KEY, facts, self.clock.monotonic())

    def blocked(self, facts: Facts = CHAT) -> str | None:
        block = self.breakers.blocked(facts, self.clock.monotonic()).get(KEY)
        return None if block is None else block.code

    def end(self, result: Result, facts: Facts = CHAT, **changes: object) -> None:
        self.breakers.record(outcome(result, facts=facts, **changes))

    def attempt(self, result: Result, facts: Facts = CHAT, **changes: object) -> None:
        assert self.admit(facts)
        self.end(result, facts, **changes)

    @property
    def state(self) -> CircuitState:
        return self.breakers.state(*KEY, self.clock.monotonic())

    def open(self) -> None:
        for _ in range(5):
            self.attempt(Result.FAILED)
        assert self.state is CircuitState.OPEN


def test_a_replica_that_always_fails_is_out_after_five_failures() -> None:
    harness = BreakerHarness()
    for _ in range(5):
        assert harness.blocked() is None
        harness.attempt(Result.FAILED, error="upstream_error")
    assert harness.blocked() == "breaker_open"
    assert not harness.admit()


def test_a_new_process_of_a_local_model_starts_with_a_closed_circuit() -> None:
    harness = BreakerHarness()
    process: int | None = 7
    harness.breakers.follow(lambda _: process)
    for _ in range(4):
        harness.end(Result.FAILED, endpoint=LOCAL_ENDPOINT)
    process = 8
    for _ in range(4):
        harness.end(Result.FAILED, endpoint=LOCAL_ENDPOINT)
    assert not harness.breakers.blocked(CHAT, harness.clock.monotonic()), "the first four were another's"
    harness.end(Result.FAILED, endpoint=LOCAL_ENDPOINT)
    assert harness.breakers.blocked(CHAT, harness.clock.monotonic())
    process = None
    assert not harness.breakers.blocked(CHAT, harness.clock.monotonic()), "else no request would start the next"
    assert harness.breakers.admit("model", LOCAL_ENDPOINT, CHAT, harness.clock.monotonic())
    assert set(harness.breakers.export().values()) == {None}


def test_the_circuit_of_a_local_model_does_not_outlive_the_gateway() -> None:
    harness, later = BreakerHarness(), BreakerHarness()
    for _ in range(5):
        harness.end(Result.FAILED, endpoint=LOCAL_ENDPOINT)
    later.breakers.adopt(harness.breakers.export())
    assert later.breakers.admit("model", LOCAL_ENDPOINT, CHAT, later.clock.monotonic())


def test_a_success_resets_the_count() -> None:
    harness = BreakerHarness()
    for _ in range(4):
        harness.attempt(Result.FAILED)
    harness.attempt(Result.SUCCESS)
    for _ in range(4):
        harness.attempt(Result.FAILED)
    assert harness.state is CircuitState.CLOSED


def test_every_second_attempt_failing_opens_by_the_rate() -> None:
    harness = BreakerHarness()
    attempts = 0
    while harness.state is CircuitState.CLOSED:
        harness.attempt(Result.SUCCESS if attempts % 2 else Result.FAILED)
        attempts += 1
    assert attempts <= 21


def test_failures_that_left_the_window_do_not_count_for_the_rate() -> None:
    harness = BreakerHarness()
    for number in range(100):
        harness.attempt(Result.SUCCESS if number % 2 else Result.FAILED)
        harness.clock.advance(3.0)
    assert harness.state is CircuitState.CLOSED


@pytest.mark.parametrize("result", [Result.REFUSAL, Result.CANCELLED, Result.REJECTED])
def test_a_refusal_a_cancellation_and_the_callers_mistake_never_count(result: Result) -> None:
    harness = BreakerHarness()
    for _ in range(100):
        harness.attempt(result)
    assert harness.state is CircuitState.CLOSED
    assert harness.blocked() is None


@pytest.mark.parametrize(
    ("error", "provider_key"),
    [
        ("upstream_rate_limited", 0),
        ("upstream_rejected_key", 0),
        ("upstream_forbidden", 0),
        ("upstream_forbidden", None),
        ("insufficient_quota", 0),
        ("answer_invalid", 0),
        ("model_unavailable", None),
        ("insufficient_quota", None),
        ("queue_full", None),
    ],
)
def test_what_is_not_the_upstreams_fault_does_not_count(error: str, provider_key: int | None) -> None:
    harness = BreakerHarness()
    for _ in range(100):
        harness.attempt(Result.FAILED, error=error, provider_key=provider_key)
    assert harness.state is CircuitState.CLOSED


def test_an_overloaded_endpoint_without_keys_counts() -> None:
    harness = BreakerHarness()
    for _ in range(5):
        harness.attempt(Result.FAILED, error="upstream_rate_limited")
    assert harness.state is CircuitState.OPEN


def test_half_open_lets_a_single_probe_through_and_its_success_closes() -> None:
    harness = BreakerHarness()
    harness.open()
    harness.clock.advance(2.0)
    assert harness.blocked() is None
    assert harness.admit()
    assert harness.blocked() == "breaker_open"
    assert [harness.admit() for _ in range(10)] == [False] * 10
    harness.end(Result.SUCCESS)
    assert harness.state is CircuitState.CLOSED
    assert harness.admit()


def test_a_probe_that_fails_opens_for_twice_as_long_up_to_a_cap() -> None:
    harness = BreakerHarness()
    harness.open()
    delays = []
    for _ in range(6):
        delay = 0.0
        while harness.blocked() is not None:
            harness.clock.advance(0.5)
            delay += 0.5
        delays.append(delay)
        harness.attempt(Result.FAILED)
    assert delays == [2, 4, 8, 16, 20, 20]


def test_a_recovered_replica_is_used_within_thirty_seconds_however_long_it_was_down() -> None:
    harness = BreakerHarness()
    harness.open()
    for _ in range(1000):
        harness.clock.advance(1.0)
        if harness.admit():
            harness.end(Result.FAILED)
    waited = 0
    while not harness.admit():
        harness.clock.advance(1.0)
        waited += 1
    harness.end(Result.SUCCESS)
    assert waited <= 30
    assert harness.state is CircuitState.CLOSED


@pytest.mark.parametrize("result", [Result.CANCELLED, Result.REJECTED])
def test_an_inconclusive_probe_frees_the_probe_slot(result: Result) -> None:
    harness = BreakerHarness()
    harness.open()
    harness.clock.advance(2.0)
    harness.attempt(result)
    assert harness.state is CircuitState.HALF_OPEN
    assert harness.admit()
    assert not harness.admit()


def test_an_older_attempt_that_is_cancelled_does_not_free_the_probe_slot() -> None:
    harness = BreakerHarness()
    older = replace(CHAT, prompt_digest="older")
    assert harness.admit(older)
    harness.open()
    harness.clock.advance(2.0)
    assert harness.admit()
    harness.end(Result.CANCELLED, older)
    assert not harness.admit()
    harness.end(Result.CANCELLED)
    assert harness.admit()


def test_a_success_that_began_before_the_circuit_opened_does_not_close_it() -> None:
    harness = BreakerHarness()
    assert harness.admit()
    assert harness.admit()
    harness.open()
    harness.end(Result.SUCCESS)
    harness.end(Result.FAILED)
    assert harness.blocked() == "breaker_open"
    harness.clock.advance(2.0)
    assert harness.blocked() is None


def test_a_model_that_lacks_a_need_is_blocked_for_that_need_only_and_sooner() -> None:
    harness = BreakerHarness()
    for _ in range(2):
        harness.attempt(Result.CANNOT, TOOLS)
    assert harness.blocked(TOOLS) == "breaker_cannot"
    assert harness.blocked(TOOLS_AND_VISION) == "breaker_cannot"
    assert harness.blocked(CHAT) is None
    assert harness.blocked(VISION) is None
    assert not harness.admit(TOOLS)
    assert harness.admit(VISION)


def test_lacking_two_needs_together_does_not_exclude_either_alone() -> None:
    harness = BreakerHarness()
    for _ in range(2):
        harness.attempt(Result.CANNOT, TOOLS_AND_VISION)
    assert harness.blocked(TOOLS_AND_VISION) == "breaker_cannot"
    assert harness.blocked(TOOLS) is None


def test_a_need_is_probed_again_and_a_success_clears_it() -> None:
    harness = BreakerHarness()
    for _ in range(2):
        harness.attempt(Result.CANNOT, TOOLS)
    harness.clock.advance(300.0)
    assert harness.admit(TOOLS)
    assert not harness.admit(TOOLS)
    harness.end(Result.SUCCESS, TOOLS)
    assert harness.admit(TOOLS)
    assert harness.breakers.export() == {"model\nendpoint": None}


def test_what_a_model_was_said_to_lack_opens_that_need_alone() -> None:
    harness = BreakerHarness()
    for _ in range(2):
        harness.attempt(Result.CANNOT, TOOLS_AND_VISION, lacks=frozenset({"tools"}))
    assert harness.blocked(TOOLS) == "breaker_cannot"
    assert harness.blocked(TOOLS_AND_VISION) == "breaker_cannot"
    assert harness.blocked(VISION) is None
    assert harness.blocked(CHAT) is None


def test_a_model_that_cannot_split_text_is_still_asked_for_answers() -> None:
    harness = BreakerHarness()
    for _ in range(5):
        harness.attempt(Result.CANNOT, replace(CHAT, tokens_only=True))
    assert harness.blocked(CHAT) is None


def test_a_parameter_can_be_lacking() -> None:
    harness = BreakerHarness()
    warm = replace(CHAT, parameters=frozenset({"temperature", "top_p"}))
    for _ in range(2):
        harness.attempt(Result.CANNOT, warm, lacks=frozenset({"temperature"}))
    assert harness.blocked(replace(CHAT, parameters=frozenset({"temperature"}))) == "breaker_cannot"
    assert harness.blocked(replace(CHAT, parameters=frozenset({"top_p"}))) is None


def test_a_lack_that_the_request_did_not_need_counts_for_all_that_it_needed() -> None:
    harness = BreakerHarness()
    for _ in range(2):
        harness.attempt(Result.CANNOT, TOOLS, lacks=frozenset({"vision"}))
    assert harness.blocked(TOOLS) == "breaker_cannot"
    assert harness.blocked(CHAT) is None


def test_what_was_learned_of_a_row_ends_with_a_change_of_the_row() -> None:
    rows = {"model": "as it was"}
    harness = BreakerHarness()
    harness.breakers = Breakers(BreakerSettings(), harness.clock, rows.__getitem__)
    for _ in range(2):
        harness.attempt(Result.CANNOT, TOOLS)
    stored = harness.breakers.export()
    assert harness.blocked(TOOLS) == "breaker_cannot"

    same = Breakers(BreakerSettings(), harness.clock, rows.__getitem__)
    same.adopt(stored)
    assert KEY in same.blocked(TOOLS, harness.clock.monotonic())

    rows["model"] = "changed"
    assert harness.blocked(TOOLS) is None
    assert harness.breakers.export() == {"model\nendpoint": None}
    restarted = Breakers(BreakerSettings(), harness.clock, rows.__getitem__)
    restarted.adopt(stored)
    assert KEY not in restarted.blocked(TOOLS, harness.clock.monotonic())
    harness.attempt(Result.CANNOT, TOOLS)
    assert harness.blocked(TOOLS) is None, "the count begins anew, too"


def test_a_named_model_is_asked_although_it_was_said_to_lack_something_and_a_success_ends_that() -> None:
    harness = BreakerHarness()
    for _ in range(2):
        harness.attempt(Result.CANNOT, TOOLS)
    now = harness.clock.monotonic()
    assert not harness.admit(TOOLS)
    assert harness.breakers.admit(*KEY, TOOLS, now, despite_lacks=True)
    harness.end(Result.SUCCESS, TOOLS)
    assert harness.blocked(TOOLS) is None


def test_with_nothing_open_blocked_is_the_same_empty_mapping_every_time() -> None:
    harness = BreakerHarness()
    harness.attempt(Result.SUCCESS)
    now = harness.clock.monotonic()
    assert harness.breakers.blocked(CHAT, now) is harness.breakers.blocked(TOOLS, now)


def test_an_open_circuit_survives_a_restart_for_the_rest_of_its_time() -> None:
    before = BreakerHarness()
    before.open()
    for _ in range(2):
        before.breakers.record(outcome(Result.CANNOT, model="other", facts=TOOLS))
    stored = before.breakers.export()
    assert before.breakers.export() == {}

    after = BreakerHarness()
    after.clock.advance(1.5)
    after.breakers.adopt({name: document for name, document in stored.items() if document is not None})
    assert after.blocked() == "breaker_open"
    now = after.clock.monotonic()
    assert after.breakers.blocked(TOOLS, now)["other", "endpoint"].code == "breaker_cannot"
    assert ("other", "endpoint") not in after.breakers.blocked(CHAT, now)
    after.clock.advance(0.5)
    assert after.state is CircuitState.HALF_OPEN


def test_closing_is_exported_and_an_expired_circuit_is_not_adopted() -> None:
    harness = BreakerHarness()
    harness.open()
    stored = harness.breakers.export()
    harness.clock.advance(2.0)
    harness.attempt(Result.SUCCESS)
    assert harness.breakers.export() == {"model\nendpoint": None}
    harness.breakers.adopt({name: document for name, document in stored.items() if document is not None})
    assert harness.state is CircuitState.CLOSED


@pytest.mark.parametrize(
    "document",
    [
        None,
        7,
        [],
        {},
        {"saved_at": "x"},
        {"saved_at": 0, "fault": 1},
        {"saved_at": 0, "lacks": [[["flying"], {}]]},
        {"saved_at": 1_800_000_000, "fault": {"open_for": float("nan"), "delay": 1}},
    ],
)
def test_a_damaged_document_is_skipped(document: object) -> None:
    harness = BreakerHarness()
    harness.breakers.adopt({"model\nendpoint": document, "no separator": document})
    assert harness.state is CircuitState.CLOSED


class Circuit(RuleBasedStateMachine):
    """The invariants hold for attempts, ends and delays in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.harness = BreakerHarness()
        self.in_flight: list[Facts] = []
        self.probes: list[Facts] = []
        self.number = 0

    @rule(feature=st.sampled_from([None, Capability.TOOLS]))
    def ask(self, feature: Capability | None) -> None:
        self.number += 1
        facts = replace(
            CHAT, features=frozenset() if feature is None else frozenset({feature}), prompt_digest=str(self.number)
        )
        blocked = self.harness.blocked(facts) is not None
        half_open = self.harness.state is CircuitState.HALF_OPEN
        admitted = self.harness.admit(facts)
        assert admitted is not blocked
        if admitted:
            self.in_flight.append(facts)
            if half_open:
                self.probes.append(facts)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), result=st.sampled_from(Result))
    def end(self, data: st.DataObject, result: Result) -> None:
        facts = data.draw(st.sampled_from(self.in_flight))
        self.in_flight.remove(facts)
        before = self.harness.state
        self.harness.end(result, facts)
        if facts in self.probes:
            self.probes.remove(facts)
        if self.harness.state is not CircuitState.HALF_OPEN:
            self.probes.clear()
        if result in (Result.CANCELLED, Result.REJECTED, Result.REFUSAL) and before is CircuitState.CLOSED:
            assert self.harness.state is CircuitState.CLOSED

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 30.0, 400.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        self.harness.clock.advance(seconds)
        if seconds >= 30.0:
            assert self.harness.state is not CircuitState.OPEN

    @invariant()
    def there_is_at_most_one_probe(self) -> None:
        assert len(self.probes) <= 1

    @invariant()
    def the_probe_slot_is_free_when_no_attempt_is_in_flight(self) -> None:
        if not self.in_flight and self.harness.state is CircuitState.HALF_OPEN:
            assert self.harness.blocked() is None


Circuit.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestCircuit = Circuit.TestCase


def test_the_needs_of_a_request_are_its_endpoint_and_its_features() -> None:
    assert needs_of(TOOLS) == {Capability.CHAT, Capability.TOOLS}


def test_a_lack_of_something_that_a_plain_request_did_not_use_teaches_nothing() -> None:
    harness = BreakerHarness()
    for _ in range(4):
        harness.attempt(Result.CANNOT, lacks=frozenset({"vision"}))
    assert harness.blocked() is None
    assert harness.blocked(VISION) is None
