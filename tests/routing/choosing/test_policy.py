"""The policy as a whole. It is pure, so each case is a value in and a value out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catalog.model import Capability, Endpoint, Price
from routing.beliefs.estimator import Estimator
from routing.choosing.policy import plan
from routing.choosing.world import World
from routing.facts import Complexity, Facts, Intent, Mode, Task, Workload
from routing.plan import Strategy
from routing.reading.intent import is_auto
from tests.routing.catalogue import SETTINGS, chat, remote, rng, world
from tests.routing.choosing.plans import EMBED, choose, codes, firsts


@pytest.mark.parametrize(
    ("name", "auto"), [("auto", True), ("AUTO:fast", True), ("automatic", False), ("m", False)]
)
def test_auto_and_its_modes_leave_the_choice_to_the_router(name: str, auto: bool) -> None:
    assert is_auto(name) is auto


def test_the_same_generator_gives_the_same_plan() -> None:
    here = world([remote(f"m{number}") for number in range(30)])
    assert choose(chat(), here, seed=5).candidates == choose(chat(), here, seed=5).candidates


def test_an_only_candidate_is_chosen_without_a_draw() -> None:
    only = world([remote("only")])
    scores = {plan(chat(), only, SETTINGS, rng(seed)).candidates[0].score for seed in range(5)}
    assert len(scores) == 1


def test_an_estimator_of_another_catalogue_is_refused() -> None:
    here, other = world([remote("a")]), world([remote("a")])
    with pytest.raises(ValueError, match="aligned"):
        choose(chat(), World(index=here.index, estimator=other.estimator, now=0.0))


def test_the_reason_counts_the_signs_in_answers_and_the_prior_that_they_moved() -> None:
    here = world([remote("m", benchmarks={"overall": 0.9})])
    assert (
        "by its prior, nothing observed yet; expected quality 0.90 (0 observations)" in choose(chat(), here).reason
    )
    for _ in range(30):
        here.estimator.hint_quality("m", Task.CHAT, Complexity.SIMPLE, 0.2, 0.25)
    made = choose(chat(), here)
    assert made.strategy is Strategy.PROFILE
    assert "by what was observed" in made.reason
    assert "0 observations, signs in its answers worth" in made.reason
    assert ", 0.90 before any)" in made.reason


def test_fallbacks_are_in_another_failure_domain_first() -> None:
    rows = [
        remote(f"a{number}", endpoint="one", benchmarks={"overall": 0.9 - number / 100}) for number in range(4)
    ]
    rows.append(remote("other", endpoint="two", benchmarks={"overall": 0.7}))
    made = choose(chat(high_stakes=True), world(rows))
    assert [c.failure_domain for c in made.candidates][:3] == ["one", "two", "one"]
    shared = Endpoint(id="two", base_url="http://two", failure_domain="one")
    made = choose(chat(high_stakes=True), world(rows, [shared]))
    assert [c.model.id for c in made.candidates] == ["a0", "a1", "a2", "a3", "other"]


def test_a_fallback_that_is_not_able_comes_after_those_that_are() -> None:
    rows = [
        remote("dear", endpoint="one", benchmarks={"overall": 0.9}),
        remote("slow", endpoint="one", benchmarks={"overall": 0.72}),
        remote("tiny", endpoint="two", benchmarks={"overall": 0.24}, price=Price()),
        remote("fair", endpoint="three", benchmarks={"overall": 0.6}),
    ]
    settings = SETTINGS.model_copy(
        update={"learning": SETTINGS.learning.model_copy(update={"benchmark_trust": 1.0})}
    )
    here = world(rows, estimator=Estimator(settings, writer="test"))
    made = choose(chat(high_stakes=True), here, settings)
    assert [candidate.model.id for candidate in made.candidates] == ["dear", "fair", "slow", "tiny"]


def test_a_plan_has_a_bounded_number_of_candidates_and_considers_all() -> None:
    made = choose(chat(), world([remote(f"m{number}") for number in range(100)]))
    assert len(made.candidates) == SETTINGS.candidates
    assert len(list(made.considered)) == 100
    scores = [candidate.score for candidate in made.considered]
    assert scores == sorted(scores, reverse=True)


def test_a_plan_does_not_change_when_something_is_learned_after_it() -> None:
    here = world([remote("a"), remote("b")])
    made = choose(chat(), here)
    here.estimator.observe_quality("a", Task.CHAT, Complexity.SIMPLE, 0.0)
    assert {c.quality for c in made.considered} == {0.6}


# ---- pins of embeddings


def test_the_first_choice_of_an_embedding_model_is_a_pin_without_fallback() -> None:
    here = world([remote("a", capabilities=EMBED), remote("b", capabilities=EMBED)])
    made = choose(Facts(capability=Capability.EMBED), here)
    assert len(made.candidates) == 1
    assert made.pin == "auto"
    assert made.strategy is Strategy.PINNED


@pytest.mark.parametrize(
    "restricted",
    [
        Facts(capability=Capability.EMBED, allowed=("b", "c")),
        Facts(capability=Capability.EMBED, intent=Intent(exclude=frozenset({"a"}))),
        Facts(capability=Capability.EMBED, intent=Intent(max_cost=1.0)),
        Facts(capability=Capability.EMBED, intent=Intent(mode=Mode.CHEAP)),
        Facts(capability=Capability.EMBED, intent=Intent(prefer_fast=True)),
    ],
)
def test_a_restricted_embedding_request_makes_no_pin_and_always_gets_the_same_model(restricted: Facts) -> None:
    rows = [remote(name, capabilities=EMBED, price=Price(input=0.1, output=0)) for name in "abc"]
    chosen = firsts(restricted, world(rows))
    assert list(chosen) == ["b" if restricted.allowed or restricted.intent.exclude else "a"]
    made = choose(restricted, world(rows))
    assert made.pin is None
    assert made.strategy is not Strategy.PINNED
    assert len(made.candidates) == 1


def test_a_key_with_caps_of_its_own_makes_no_pin_for_others() -> None:
    here = world([remote("a", capabilities=EMBED)])
    assert choose(Facts(capability=Capability.EMBED), replace(here, key_capped=True)).pin is None
    own = Facts(capability=Capability.EMBED, key="K1")
    assert choose(own, replace(here, key_capped=True)).pin == "auto@k1"


def test_a_key_that_may_not_use_the_pinned_model_keeps_to_one_of_its_own() -> None:
    rows = [remote(name, capabilities=EMBED) for name in "abc"]
    bound = Facts(capability=Capability.EMBED, allowed=("b", "c"), key="k1")

    def chosen(facts: Facts, **pins: str) -> tuple[str, str | None]:
        made = choose(facts, world(rows, pins={name.replace("_", "@"): model for name, model in pins.items()}))
        (candidate,) = made.candidates
        return candidate.model.id, made.pin

    assert chosen(bound) == ("b", "auto@k1")
    assert chosen(bound, auto="a") == ("b", "auto@k1"), "the common pin is to a model that it may not use"
    assert chosen(bound, auto="c") == ("c", None), "it may use the common one"
    assert chosen(bound, auto="c", auto_k1="b") == ("b", None), "a later common pin moves no key's vectors"
    assert chosen(replace(bound, key="k2"), auto="c", auto_k1="b") == ("c", None)
    free = replace(bound, allowed=())
    assert chosen(replace(free, key="k3"), auto_k1="b")[1] == "auto", "a pin of a key's own decides for no other"
    steered = replace(bound, intent=Intent(prefer_fast=True))
    assert chosen(steered, auto="a") == ("b", None)


def test_a_key_whose_own_pin_it_may_no_longer_use_is_told_so() -> None:
    rows = [remote(name, capabilities=EMBED) for name in "abc"]
    bound = Facts(capability=Capability.EMBED, allowed=("c",), key="k1")
    made = choose(bound, world(rows, pins={"auto@k1": "b"}))
    assert not made.candidates
    assert "'auto' is pinned to b" in made.reason


def test_what_does_not_steer_the_choice_does_not_prevent_a_pin() -> None:
    intent = Intent(mode=Mode.FAST, workload=Workload.BATCH, strict=True)
    facts = Facts(capability=Capability.EMBED, requested="auto:fast", intent=intent)
    assert choose(facts, world([remote("a", capabilities=EMBED)])).pin == "auto:fast"


def test_a_pinned_alias_stands_for_its_model_or_for_nothing() -> None:
    rows = [remote("a", capabilities=EMBED, benchmarks={"overall": 0.9}), remote("b", capabilities=EMBED)]
    here = world(rows, pins={"auto": "b"})
    made = choose(Facts(capability=Capability.EMBED), here)
    assert [c.model.id for c in made.candidates] == ["b"]
    assert made.pin is None
    private = choose(Facts(capability=Capability.EMBED, intent=Intent(local_only=True)), here)
    assert not private.candidates
    assert codes(private) == {"b": "privacy"}
