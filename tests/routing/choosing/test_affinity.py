"""Conversations stay where their beginning is cached, as long as another model is not worth more."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from backends.wire.chat import ChatRequest
from backends.workers.pool import PoolSnapshot, WorkerState, WorkerView
from catalog.model import Performance, Price
from routing.beliefs.prefixes import PrefixMemory
from routing.choosing.policy import plan
from routing.choosing.world import World
from routing.facts import Facts
from routing.outcomes import Result, Usage
from routing.prefix import Prefix
from routing.reading.requests import read_chat
from routing.settings import Affinity, RoutingSettings
from tests.routing.catalogue import SETTINGS, local, remote, rng, world
from tests.routing.choosing.plans import group
from tests.routing.clocks import ManualClock
from tests.routing.outcome_factory import outcome

SYSTEM = {"role": "system", "content": "You are a patient teacher of geography. " * 20}
WORDS = "Tell me more about the rivers and the towns of that country, in detail please. " * 20


def turns(count: int, topic: str = "Oslo", *, last: str | None = None, **fields: Any) -> Facts:
    """Facts of the conversation's turn ``count``, from 1; ``last`` replaces its last message."""
    messages: list[dict[str, Any]] = [SYSTEM]
    for turn in range(count):
        messages.append({"role": "user", "content": f"{topic} {turn}: {WORDS}"})
        messages.append({"role": "assistant", "content": f"Answer {turn}. {WORDS}"})
    del messages[-1]
    if last is not None:
        messages[-1] = {"role": "user", "content": last}
    request = {"model": "m", "messages": messages, "max_tokens": 50, **fields}
    return read_chat(ChatRequest.model_validate(request), key=fields.get("user", ""))


def prefix_of(facts: Facts) -> Prefix:
    """The facts' prefix, which every chat has."""
    assert facts.prefix is not None
    return facts.prefix


class Conversations:
    """A memory with a clock, and worlds that read it."""

    def __init__(self, settings: RoutingSettings = SETTINGS) -> None:
        self.clock = ManualClock()
        self.settings = settings
        self.memory = PrefixMemory(settings.affinity, self.clock)

    def answered(self, facts: Facts, model: str, **usage: Any) -> None:
        told = Usage(**usage) if usage else Usage(known=False)
        self.memory.record(outcome(Result.SUCCESS, facts=facts, model=model, first_chunk=0.1, usage=told))

    def world(self, made: World) -> World:
        return replace(made, prefixes=self.memory, now=self.clock.monotonic())

    def firsts(self, facts: Facts, made: World, times: int = 100) -> Counter[str]:
        here, generator = self.world(made), rng()
        return Counter(plan(facts, here, self.settings, generator).candidates[0].model.id for _ in range(times))


@pytest.fixture
def here() -> Conversations:
    return Conversations()


REPLICAS = (remote("a/m"), remote("b/m"))


@pytest.mark.parametrize("holder", ["a/m", "b/m"])
def test_every_turn_goes_to_the_replica_that_had_the_last_one(here: Conversations, holder: str) -> None:
    here.answered(turns(1), holder)
    assert here.firsts(turns(2), group(*REPLICAS)) == {holder: 100}


def test_a_new_conversation_with_a_known_system_prompt_is_spread_over_the_replicas(here: Conversations) -> None:
    here.answered(turns(1), "a/m")
    assert len(here.firsts(turns(1, "Rome"), group(*REPLICAS))) == 2


def test_requests_that_share_their_examples_but_no_earlier_turn_are_spread(here: Conversations) -> None:
    here.answered(turns(3), "a/m")
    assert len(here.firsts(turns(3, last="Something else?"), group(*REPLICAS))) == 2


def test_the_same_prompt_again_is_no_later_turn(here: Conversations) -> None:
    here.answered(turns(1), "a/m")
    assert len(here.firsts(turns(1), group(*REPLICAS))) == 2


def test_a_conversation_leaves_a_replica_with_a_long_queue(here: Conversations) -> None:
    here.answered(turns(1), "a/m")
    assert here.firsts(turns(2), group(*REPLICAS, queued_ahead={"a/m": 20.0})) == {"b/m": 100}


def test_tools_are_part_of_what_is_cached(here: Conversations) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    here.answered(turns(1), "a/m")
    with_tool = turns(2, tools=[tool])
    assert not here.memory.held(with_tool)
    assert here.memory.held(turns(2))


def test_callers_do_not_see_by_the_choice_what_others_sent(here: Conversations) -> None:
    here.answered(turns(1, user="one"), "a/m")
    assert here.memory.held(turns(2, user="one"))
    assert not here.memory.held(turns(2, user="two"))


def test_auto_changes_the_model_of_a_conversation_only_for_more_than_the_cache_saves(
    here: Conversations,
) -> None:
    slow = Performance(prefill_tokens_per_second=300, tokens_per_second=100, latency_p50_ms=100)
    auto = {"model": "auto"}
    slightly, far = {"overall": 0.62}, {"overall": 0.99}
    holder = remote("holder", performance=slow)
    better = remote("better", performance=slow, benchmarks=slightly)
    best = remote("best", performance=slow, benchmarks=far)
    here.answered(turns(3, **auto), "holder")
    assert here.firsts(turns(4, **auto), world([holder, better])) == {"holder": 100}
    assert here.firsts(turns(4, "Rome", **auto), world([holder, better])) != {"holder": 100}
    strong = RoutingSettings.model_validate({"learning": {"benchmark_trust": 1.0}, "latency_scale": 60.0})
    eager = Conversations(strong)
    eager.answered(turns(3, **auto), "holder")
    assert eager.firsts(turns(4, **auto), world([holder, best])) == {"best": 100}


def test_cached_tokens_that_cost_less_count_as_dollars(here: Conversations) -> None:
    price = {"input": 10.0, "output": 10.0}
    cached, plain = Price(**price, cache_read=1.0), Price(**price)
    facts, auto = turns(5, model="auto"), {"model": "auto"}
    here.answered(turns(4, **auto), "billed")
    made = here.world(world([remote("billed", price=cached), remote("other", price=plain)]))
    chosen = plan(facts, made, SETTINGS, rng())
    assert chosen.candidates[0].model.id == "billed"
    assert "which saves" in chosen.reason
    assert "and $0.0" in chosen.reason
    here.answered(turns(4, "Rome", **auto), "other")
    text = plan(turns(5, "Rome", **auto), made, SETTINGS, rng()).reason
    assert "and $" not in text


def test_a_cache_fades_with_its_age(here: Conversations) -> None:
    here.answered(turns(1), "a/m")
    tokens = []
    for _ in range(3):
        text = plan(turns(2), here.world(group(*REPLICAS)), SETTINGS, rng()).reason
        tokens.append(int(text.split("holds about ")[1].split()[0]))
        here.clock.advance(300)
    assert tokens[0] > 2 * tokens[1] > 4 * tokens[2] > 0


def test_the_cache_of_a_worker_ends_with_its_process(here: Conversations) -> None:
    rows = [local("one"), local("two")]
    auto = {"model": "auto"}
    here.clock.advance(50)
    here.answered(turns(3, **auto), "one")
    here.clock.advance(1)

    def held_with(started: float, state: WorkerState = WorkerState.READY) -> bool:
        view = WorkerView(model="one", engine="llamacpp", device="cpu", state=state, started_at=started)
        made = here.world(world(rows, pool=PoolSnapshot(workers=(view,))))
        return "this conversation" in plan(turns(4, **auto), made, SETTINGS, rng()).reason

    began = here.clock.monotonic()
    assert held_with(began - 40)
    assert not held_with(began - 0.5)
    assert not held_with(began - 40, WorkerState.STARTING)


def test_reports_of_cached_tokens_correct_what_a_cache_is_expected_to_keep(here: Conversations) -> None:
    here.answered(turns(1), "a/m", input=1000, output=5)
    before = here.memory.kept("a/m")
    here.answered(turns(2), "a/m", input=2000, output=5, cached=1900)
    good = here.memory.kept("a/m")
    assert good > before
    for turn in range(3, 20):
        here.answered(turns(turn), "a/m", input=1000 * turn, output=5)
    assert here.memory.kept("a/m") < 0.2


def test_a_server_that_never_reports_cached_tokens_is_not_taken_to_have_none(here: Conversations) -> None:
    before = here.memory.kept("a/m")
    for turn in range(1, 10):
        here.answered(turns(turn), "a/m", input=1000 * turn, output=5)
    assert here.memory.kept("a/m") == before


def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    here = Conversations(RoutingSettings(affinity=Affinity(remembered=10)))
    for number in range(20):
        here.answered(turns(1, f"topic {number}"), "a/m")
    assert not here.memory.held(turns(2, "topic 0"))
    assert here.memory.held(turns(2, "topic 19"))


def test_the_memory_is_in_use_for_as_long_as_a_cache_lasts_after_a_choice_looked_there() -> None:
    here = Conversations(RoutingSettings(affinity=Affinity(local=60, remote=30)))
    here.answered(turns(1), "a/m", input=1000, output=5, cached=900)
    told = {"recorded": here.memory.in_use}
    here.memory.held(turns(2))
    here.clock.advance(60)
    told["chosen"] = here.memory.in_use
    here.clock.advance(1)
    told["cold"] = here.memory.in_use
    here.memory.held(turns(2))
    here.memory.configure(Affinity(enabled=False))
    told["switched off"] = here.memory.in_use
    assert told == {"recorded": False, "chosen": True, "cold": False, "switched off": False}


def test_switched_off_nothing_is_held() -> None:
    here = Conversations(RoutingSettings(affinity=Affinity(enabled=False)))
    here.answered(turns(1), "a/m")
    assert len(here.firsts(turns(2), group(*REPLICAS))) == 2


def test_a_prefix_that_is_not_wanted_is_never_computed_and_holds_no_messages() -> None:
    unwanted = prefix_of(turns(2))
    unwanted.settle(wanted=False)
    assert unwanted.boundaries == ()
    assert (unwanted.whole, unwanted.head) == (None, None)
    assert not unwanted.turns


def test_the_boundaries_of_a_long_conversation_are_bounded() -> None:
    prefix = prefix_of(turns(400))
    assert prefix.head is not None
    assert prefix.boundaries[-1].share == 1.0
    assert len(prefix.boundaries) < 140
