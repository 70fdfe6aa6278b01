"""The policy: filter, score, choose. Pure, so that every case is a value in and a value out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backends.workers.pool import DeviceView, PoolSnapshot, WorkerState, WorkerView
from catalog.errors import CapabilityMismatch, ModelNotFound
from catalog.index import Index
from catalog.model import Capability, Endpoint, Model, Performance, Price, Size
from routing.choosing.filters import admit, admitted_rows
from routing.choosing.policy import is_auto, plan
from routing.choosing.world import World
from routing.facts import Complexity, Facts, Intent, Mode, Task, Workload
from routing.plan import Block, Plan, Strategy
from routing.settings import Learning, RoutingSettings, SpeechPolicy
from tests.routing.catalogue import SETTINGS, chat, local, remote, rng, world

TOOLS = frozenset({Capability.CHAT, Capability.TOOLS})
EMBED = frozenset({Capability.EMBED})


def choose(facts: Facts, here: World, settings: RoutingSettings = SETTINGS, seed: int = 0) -> Plan:
    return plan(facts, here, settings, rng(seed))


def firsts(facts: Facts, here: World, settings: RoutingSettings = SETTINGS, times: int = 200) -> Counter[str]:
    generator = rng()
    return Counter(plan(facts, here, settings, generator).candidates[0].model.id for _ in range(times))


def codes(made: Plan) -> dict[str, str]:
    return {exclusion.model: exclusion.code for exclusion in made.excluded}


# ---- by speed


def test_a_tenth_of_a_second_moves_nobody_but_a_caller_who_wants_speed() -> None:
    here = world(
        [
            remote("slower", performance=Performance(latency_p50_ms=180, tokens_per_second=1e6)),
            remote("quicker", performance=Performance(latency_p50_ms=100, tokens_per_second=1e6)),
        ]
    )
    assert firsts(chat(), here) == {"slower": 200}, "the first of equals"
    assert firsts(chat(mode=Mode.FAST), here) == {"quicker": 200}
    assert firsts(chat(prefer_fast=True), here) == {"quicker": 200}
    much = world(
        [
            remote("slower", performance=Performance(latency_p50_ms=900, tokens_per_second=1e6)),
            remote("quicker", performance=Performance(latency_p50_ms=100, tokens_per_second=1e6)),
        ]
    )
    assert firsts(chat(), much) == {"quicker": 200}


# ---- by name


def test_a_model_asked_for_by_name_is_the_only_candidate_whatever_its_score() -> None:
    here = world([remote("good", benchmarks={"overall": 0.9}), remote("bad", benchmarks={"overall": 0.1})])
    made = choose(chat(requested="BAD", high_stakes=True), here)
    assert [c.model.id for c in made.candidates] == ["bad"]
    assert made.strategy is Strategy.EXPLICIT


def test_a_named_model_that_cannot_is_a_mismatch_that_names_those_that_can() -> None:
    here = world([remote("talks"), remote("embeds", capabilities=EMBED)])
    with pytest.raises(CapabilityMismatch, match="'embeds'"):
        choose(Facts(capability=Capability.EMBED, requested="talks"), here)


def test_a_discovered_model_is_given_the_benefit_of_the_doubt_about_features() -> None:
    wants_tools = chat(requested="m", features=frozenset({Capability.TOOLS}))
    assert choose(wants_tools, world([remote("m", origin="discovered")])).candidates
    with pytest.raises(CapabilityMismatch):
        choose(wants_tools, world([remote("m", origin="user")]))


def test_a_named_model_that_is_blocked_leaves_no_candidate_and_says_why() -> None:
    here = world([remote("m")], blocked={"m": Block("no_key", "no key works")})
    made = choose(chat(requested="m"), here)
    assert not made.candidates
    assert [(e.code, e.reason) for e in made.excluded] == [("no_key", "no key works")]


def test_a_name_that_no_model_has_is_not_found() -> None:
    with pytest.raises(ModelNotFound):
        choose(chat(requested="nobody"), world([remote("m")]))


@pytest.mark.parametrize(
    ("name", "auto"), [("auto", True), ("AUTO:fast", True), ("automatic", False), ("m", False)]
)
def test_auto_and_its_modes_leave_the_choice_to_the_router(name: str, auto: bool) -> None:
    assert is_auto(name) is auto


# ---- filter


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (chat(features=frozenset({Capability.TOOLS})), "capability"),
        (chat(require=frozenset({Capability.REASONING})), "capability"),
        (chat(prompt_tokens=9000), "context"),
        (chat(prompt_tokens=8000, output_tokens=500), "context"),
        (chat(local_only=True), "privacy"),
        (chat(mode=Mode.LOCAL), "privacy"),
        (chat(tags=frozenset({"eu"})), "tags"),
        (chat(exclude=frozenset({"M"})), "excluded"),
        (chat(max_cost=1e-9), "cost"),
    ],
)
def test_each_filter_excludes_and_keeps_its_code_and_a_reason(facts: Facts, code: str) -> None:
    made = choose(facts, world([remote("m")]))
    assert not made.candidates
    assert codes(made) == {"m": code}
    assert made.excluded[0].reason
    assert code in made.reason


def test_an_unknown_price_is_excluded_by_a_limit_on_cost_and_by_a_spending_cap_and_by_nothing_else() -> None:
    here = world([remote("unknown", price=Price()), remote("known"), local("own")])
    assert codes(choose(chat(max_cost=1.0), here)) == {"unknown": "price_unknown"}
    capped = World(index=here.index, estimator=here.estimator, now=0.0, headroom=5.0)
    assert codes(choose(chat(), capped)) == {"unknown": "price_unknown"}
    assert codes(choose(chat(), here)) == {}


def test_an_unknown_price_never_wins_by_cost() -> None:
    here = world([remote("unknown", price=Price()), remote("dear", price=Price(input=10, output=30))])
    assert firsts(chat(mode=Mode.CHEAP), here)["dear"] == 200


def test_a_model_that_no_device_can_hold_is_excluded_also_when_pinned_to_a_small_one() -> None:
    gib = 2**30
    devices = (
        DeviceView(id="cpu", name="cpu", total=8 * gib, budget=4 * gib, used=0),
        DeviceView(id="cuda:0", name="gpu", total=2 * gib, budget=1 * gib, used=0),
    )
    rows = [
        local("small", size=Size(memory=gib // 2)),
        local("large", size=Size(memory=6 * gib)),
        local("misplaced", size=Size(memory=2 * gib), device="cuda:0"),
        local("homeless", size=Size(memory=1), device="mps"),
    ]
    made = choose(chat(), world(rows, pool=PoolSnapshot(devices=devices)))
    assert [c.model.id for c in made.candidates] == ["small"]
    assert set(codes(made).items()) == {("large", "memory"), ("misplaced", "memory"), ("homeless", "memory")}


def test_a_blocked_model_is_excluded_with_the_code_of_its_block() -> None:
    here = world(
        [remote("a"), remote("b")], blocked={"a": Block("breaker_open", "it fails"), "gone": Block("x", "y")}
    )
    assert codes(choose(chat(), here)) == {"a": "breaker_open"}


def test_reasons_are_not_written_until_somebody_looks() -> None:
    class Loud(Block):
        @property
        def reason(self) -> str:
            raise AssertionError("the reason was made although nobody asked")

    loud = object.__new__(Loud)
    object.__setattr__(loud, "code", "blocked")
    made = choose(chat(), world([remote("a"), remote("b")], blocked={"a": loud}))
    assert len(made.excluded) == 1
    with pytest.raises(AssertionError):
        list(made.excluded)


# ---- score


def test_modes_weigh_quality_seconds_and_dollars_differently() -> None:
    slow = Performance(tokens_per_second=30)
    slow_and_good = remote(
        "best", benchmarks={"overall": 0.95}, price=Price(input=20, output=30), performance=slow
    )
    cheap = remote("cheap", price=Price(input=0.01, output=0.02), performance=Performance(tokens_per_second=60))
    dear = remote("fast", price=Price(input=5, output=9), performance=Performance(tokens_per_second=600))
    here = world([slow_and_good, cheap, dear])
    assert firsts(chat(mode=Mode.BEST, workload=Workload.BATCH), here).most_common(1)[0][0] == "best"
    assert firsts(chat(mode=Mode.CHEAP), here).most_common(1)[0][0] == "cheap"
    assert firsts(chat(prefer_fast=True, mode=Mode.AUTO), here)["best"] == 0


def test_a_model_that_must_be_loaded_first_is_slower_by_its_load() -> None:
    loads = Performance(load_seconds=7.0)
    rows = [local("warm", performance=loads), local("cold", performance=loads)]
    ready = WorkerView(model="warm", engine="e", device="cpu", state=WorkerState.READY)
    made = choose(chat(), world(rows, pool=PoolSnapshot(workers=(ready,))))
    latency = {c.model.id: c.latency or 0.0 for c in made.candidates}
    assert latency["cold"] - latency["warm"] == pytest.approx(7.0)


def test_a_queue_before_the_request_counts_as_time() -> None:
    rows = [local("busy"), local("idle")]
    views = (
        WorkerView(model="busy", engine="e", device="cpu", state=WorkerState.READY, slots=1, busy=1, queued=3),
        WorkerView(model="idle", engine="e", device="cpu", state=WorkerState.READY),
    )
    made = choose(chat(), world(rows, pool=PoolSnapshot(workers=views)))
    latency = {c.model.id: c.latency or 0.0 for c in made.candidates}
    assert latency["busy"] == pytest.approx(5 * latency["idle"])


def test_high_stakes_beats_the_other_preferences_and_does_not_explore() -> None:
    rows = [local("near", benchmarks={"overall": 0.4}), remote("far", benchmarks={"overall": 0.9})]
    careful = chat(high_stakes=True, prefer_local=True, prefer_fast=True)
    assert firsts(careful, world(rows)) == {"far": 200}


def test_prefer_local_tips_a_near_tie_and_no_more() -> None:
    near = local(
        "near", benchmarks={"overall": 0.6}, performance=Performance(tokens_per_second=60, load_seconds=0)
    )
    rows = [near, remote("far", benchmarks={"overall": 0.65}, price=Price(input=0, output=0))]
    assert firsts(chat(prefer_local=True), world(rows))["near"] > 170
    assert firsts(chat(), world(rows))["far"] > 100
    rows[0] = near.model_copy(update={"benchmarks": {"overall": 0.05}})
    rows[1] = rows[1].model_copy(update={"benchmarks": {"overall": 0.95}})
    assert firsts(chat(prefer_local=True), world(rows))["far"] > 180


def test_a_model_preferred_by_the_settings_comes_first_while_it_can_answer() -> None:
    settings = RoutingSettings(preferred={Capability.CHAT: "b"})
    rows = [remote("a", benchmarks={"overall": 0.99}), remote("b", benchmarks={"overall": 0.01})]
    made = choose(chat(), world(rows), settings)
    assert made.candidates[0].model.id == "b"
    assert made.strategy is Strategy.PREFERRED
    blocked = world(rows, blocked={"b": Block("breaker_open", "it fails")})
    assert choose(chat(), blocked, settings).candidates[0].model.id == "a"


# ---- cold start


def test_a_trusted_remote_goes_first_until_a_local_model_has_proved_itself_at_that_task() -> None:
    rows = [
        local("near", capabilities=TOOLS, benchmarks={"overall": 0.8}),
        remote("far", capabilities=TOOLS, provider="openai", price=Price(input=50, output=90)),
    ]
    here = world(rows)
    asks = chat(task=Task.TOOL_USE, features=frozenset({Capability.TOOLS}))
    before = firsts(asks, here)
    assert 0 < before["near"] < 40  # the share that lets it prove itself
    for _ in range(20):
        here.estimator.observe_quality("near", Task.TOOL_USE, Complexity.SIMPLE, 1.0)
    assert firsts(asks, here)["near"] > 180


def test_cold_start_is_off_for_code_in_the_background_and_without_a_trusted_remote() -> None:
    near = local("near", benchmarks={"overall": 0.8})
    trusted = remote("far", provider="openai", price=Price(input=50, output=90))
    code = chat(task=Task.CODE)
    assert firsts(code, world([near, trusted]))["far"] > 160
    assert firsts(chat(task=Task.CODE, workload=Workload.BACKGROUND), world([near, trusted]))["near"] > 160
    stranger = trusted.model_copy(update={"provider": "stranger"})
    assert firsts(code, world([near, stranger]))["near"] > 160


# ---- choose


def test_what_was_learned_at_one_task_moves_the_choice_there_and_not_elsewhere() -> None:
    rows = [remote("a", benchmarks={"overall": 0.7}), remote("b", benchmarks={"overall": 0.6})]
    here = world(rows)
    for _ in range(40):
        here.estimator.observe_quality("a", Task.CODE, Complexity.SIMPLE, 0.0)
        here.estimator.observe_quality("a", Task.CHAT, Complexity.SIMPLE, 0.9)
    assert firsts(chat(task=Task.CODE), here)["b"] > 190
    assert firsts(chat(task=Task.CHAT), here)["a"] > 140


def test_a_model_little_known_is_tried_beside_one_well_known_and_hardly_better_and_the_plan_says_so() -> None:
    here = world([remote("a", benchmarks={"overall": 0.62}), remote("b", benchmarks={"overall": 0.6})])
    assert firsts(chat(), here) == {"a": 200}, "as little known, and better"
    for number in range(400):
        here.estimator.observe_quality("a", Task.CHAT, Complexity.SIMPLE, float(number % 10 < 7))
    made = [choose(chat(), here, seed=seed) for seed in range(100)]
    by = {name: {m.strategy for m in made if m.candidates[0].model.id == name} for name in "ab"}
    assert by == {"a": {Strategy.PROFILE}, "b": {Strategy.EXPLORATION}}


def test_a_model_far_behind_is_not_tried_however_little_known() -> None:
    here = world([remote("a", benchmarks={"overall": 0.9}), remote("b", benchmarks={"overall": 0.2})])
    for _ in range(100):
        here.estimator.observe_quality("a", Task.CHAT, Complexity.SIMPLE, 0.9)
    assert firsts(chat(), here)["b"] == 0


def test_without_optimism_the_best_expected_is_always_chosen() -> None:
    here = world([remote("a", benchmarks={"overall": 0.62}), remote("b", benchmarks={"overall": 0.6})])
    for number in range(400):
        here.estimator.observe_quality("a", Task.CHAT, Complexity.SIMPLE, float(number % 10 < 7))
    rules = RoutingSettings(learning=Learning(optimism=0.0))
    assert firsts(chat(), here, rules) == {"a": 200}


def test_the_same_generator_gives_the_same_plan() -> None:
    here = world([remote(f"m{number}") for number in range(30)])
    assert choose(chat(), here, seed=5).candidates == choose(chat(), here, seed=5).candidates


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


def test_a_failing_model_is_avoided_and_forgiven_with_time() -> None:
    rows = [remote("a", benchmarks={"overall": 0.7}), remote("b", benchmarks={"overall": 0.6})]
    here = world(rows, wall=1000.0)
    for _ in range(20):
        here.estimator.observe_attempt("a", failed=True, at=1000.0)
    assert firsts(chat(), here)["b"] > 190
    later = World(index=here.index, estimator=here.estimator, now=0.0, wall=1000.0 + 7200)
    assert firsts(chat(), later)["a"] > 100


def test_a_plan_names_at_most_so_many_candidates_and_considers_all() -> None:
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


def test_an_estimator_of_another_catalogue_is_refused() -> None:
    here, other = world([remote("a")]), world([remote("a")])
    with pytest.raises(ValueError, match="aligned"):
        choose(chat(), World(index=here.index, estimator=other.estimator, now=0.0))


# ---- embeddings and speech


def test_the_first_choice_of_an_embedding_model_is_a_pin_without_fallback() -> None:
    here = world([remote("a", capabilities=EMBED), remote("b", capabilities=EMBED)])
    made = choose(Facts(capability=Capability.EMBED), here)
    assert len(made.candidates) == 1
    assert made.pin == "auto"
    assert made.strategy is Strategy.PINNED


def test_a_pinned_alias_stands_for_its_model_or_for_nothing() -> None:
    rows = [remote("a", capabilities=EMBED, benchmarks={"overall": 0.9}), remote("b", capabilities=EMBED)]
    here = world(rows, pins={"auto": "b"})
    made = choose(Facts(capability=Capability.EMBED), here)
    assert [c.model.id for c in made.candidates] == ["b"]
    assert made.pin is None
    private = choose(Facts(capability=Capability.EMBED, intent=Intent(local_only=True)), here)
    assert not private.candidates
    assert codes(private) == {"b": "privacy"}


def test_speech_stays_local_by_preference_and_by_policy() -> None:
    speaks = frozenset({Capability.SPEAK})
    rows = [
        local("near", capabilities=speaks, benchmarks={"overall": 0.2}),
        remote("far", capabilities=speaks, benchmarks={"overall": 0.99}, price=Price(character=15)),
    ]
    asks = Facts(capability=Capability.SPEAK, task=Task.SPEECH, units=200)
    made = choose(asks, world(rows))
    assert [c.model.id for c in made.candidates] == ["near", "far"]
    strict = RoutingSettings(speech=SpeechPolicy(allow_remote=False))
    assert codes(choose(asks, world(rows), strict)) == {"far": "speech_policy"}
    named = RoutingSettings(speech=SpeechPolicy(preferred=("far",)))
    assert choose(asks, world(rows), named).candidates[0].model.id == "far"


# ---- one name, several replicas


def group(*models: Model, **changes: Any) -> World:
    """A world whose catalogue knows these as replicas of ``m``."""
    here = world(models, **changes)
    index = Index(models, version=1, resolver=lambda _: models)
    here.estimator.align(index)
    return replace(here, index=index)


def test_replicas_of_a_name_are_all_candidates_and_other_models_are_not() -> None:
    here = group(remote("a/m"), remote("b/m"))
    made = choose(chat(requested="m"), here)
    assert {c.model.id for c in made.candidates} == {"a/m", "b/m"}
    assert made.strategy is Strategy.EXPLICIT
    assert "replica" in made.reason


@pytest.mark.parametrize("known", [0, 500], ids=["little known", "well known"])
def test_a_replica_that_failed_is_tried_now_and_then_until_it_has_proved_itself(known: int) -> None:
    here = group(remote("a"), remote("b"), wall=1000.0)
    for _ in range(known):
        for name in ("a", "b"):
            here.estimator.observe_quality(name, Task.CHAT, Complexity.SIMPLE, 1.0)
    for _ in range(20):
        here.estimator.observe_attempt("a", failed=True, at=1000.0)
    assert 2 <= firsts(chat(requested="m"), here)["a"] < 60
    for _ in range(400):
        here.estimator.observe_attempt("a", failed=False, at=1000.0)
    assert firsts(chat(requested="m"), here)["a"] > 60


def test_after_a_replica_comes_one_of_another_failure_domain() -> None:
    here = group(remote("a/1", endpoint="a"), remote("a/2", endpoint="a"), remote("b/1", endpoint="b"))
    for seed in range(50):
        made = choose(chat(requested="m"), here, seed=seed)
        assert {c.failure_domain for c in made.candidates[:2]} == {"a", "b"}


def test_the_callers_limits_hold_among_replicas() -> None:
    here = group(remote("a/m"), local("here/m"))
    made = choose(chat(requested="m", local_only=True), here)
    assert [c.model.id for c in made.candidates] == ["here/m"]
    assert codes(made) == {"a/m": "privacy"}


def test_a_key_bound_to_one_replica_gets_that_one_and_a_key_bound_to_none_gets_nothing() -> None:
    here = group(remote("a/m"), remote("b/m"))
    assert [c.model.id for c in choose(chat(requested="m", allowed=("b/*",)), here).candidates] == ["b/m"]
    assert not choose(chat(requested="m", allowed=("c/*",)), here).candidates
    assert not choose(chat(requested="m", allowed=("c/*",), prompt_tokens=9000), here).candidates


def test_blocked_replicas_are_left_out_and_if_all_are_the_reason_is_said() -> None:
    broken = Block("breaker_open", "it failed too often")
    made = choose(chat(requested="m"), group(remote("a/m"), remote("b/m"), blocked={"a/m": broken}))
    assert [c.model.id for c in made.candidates] == ["b/m"]
    none = choose(chat(requested="m"), group(remote("a/m"), remote("b/m"), blocked={"a/m": broken, "b/m": broken}))
    assert not none.candidates
    assert "failed too often" in none.reason


def test_a_prompt_too_long_for_every_replica_is_left_to_the_model_to_refuse() -> None:
    made = choose(chat(requested="m", prompt_tokens=9000), group(remote("a/m"), remote("b/m")))
    assert [c.model.id for c in made.candidates] == ["a/m"]


def test_replicas_that_cannot_are_a_mismatch() -> None:
    with pytest.raises(CapabilityMismatch):
        choose(Facts(capability=Capability.EMBED, requested="m"), group(remote("a/m"), remote("b/m")))


def test_embeddings_of_a_name_with_replicas_are_pinned_to_one_vector_space() -> None:
    here = group(remote("a/m", capabilities=EMBED), remote("b/m", capabilities=EMBED))
    made = choose(Facts(capability=Capability.EMBED, requested="M"), here)
    assert len(made.candidates) == 1
    assert made.pin == "m"


# ---- what is remembered between decisions


@pytest.mark.parametrize(
    "facts",
    [
        chat(),
        chat(prompt_tokens=3_800),
        chat(prompt_tokens=3_800, output_tokens=1),
        chat(prompt_tokens=20_000),
        chat(prompt_tokens=3_900, tokens_only=True),
        chat(features=frozenset({Capability.TOOLS})),
        chat(require=frozenset({Capability.TOOLS})),
        chat(allowed=("small*",)),
        chat(local_only=True),
        chat(mode=Mode.LOCAL),
        chat(tags=frozenset({"eu"})),
        chat(exclude=frozenset({"large"})),
        chat(max_cost=1e-3),
        chat(capability=Capability.EMBED),
        chat(capability=Capability.SPEAK),
    ],
)
def test_the_rows_that_are_remembered_are_those_that_the_rules_leave(facts: Facts) -> None:
    rows = [
        remote("small", context=4096),
        remote("large", context=16_384, tags=frozenset({"eu"})),
        remote("tools", capabilities=frozenset({Capability.CHAT, Capability.TOOLS}), price=Price()),
        local("mine", size=Size(memory=2 * 2**30)),
        remote("voice", capabilities=frozenset({Capability.SPEAK})),
        remote("vectors", capabilities=frozenset({Capability.EMBED})),
    ]
    plain = world(rows)
    device = DeviceView(id="cpu", name="cpu", total=2**30, budget=2**30, used=0)
    worlds = [
        plain,
        replace(plain, blocked={"large": Block("no_key", "none")}),
        replace(plain, blocked={"small": Block("no_key", "none"), "mine": Block("not_pulled", "no")}),
        replace(plain, pool=PoolSnapshot(devices=(device,))),
    ]
    speech_stays = SETTINGS.model_copy(update={"speech": SpeechPolicy(allow_remote=False)})
    bound = None if facts.intent.max_cost is None else plain.estimator.cost(facts)
    for settings in (SETTINGS, speech_stays):
        for _ in range(2):
            for there in worlds:
                left = np.flatnonzero(admit(facts, there, settings, bound).admitted)
                assert admitted_rows(facts, there, settings, bound).tolist() == left.tolist()


def test_one_candidate_is_chosen_without_a_draw() -> None:
    only = world([remote("only")])
    scores = {plan(chat(), only, SETTINGS, rng(seed)).candidates[0].score for seed in range(5)}
    assert len(scores) == 1


def test_nothing_is_remembered_by_what_a_caller_calls_things() -> None:
    here = world([remote("a"), remote("b")])
    for number in range(50):
        names = frozenset({f"{number}" * 1000})
        plan(chat(exclude=names), here, SETTINGS, rng())
        plan(chat(tags=names), here, SETTINGS, rng())
    assert here.index.admitted(here.blocked) == {}
    plan(chat(), here, SETTINGS, rng())
    assert len(here.index.admitted(here.blocked)) == 1
