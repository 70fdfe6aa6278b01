"""Models asked for by name: one model, or several replicas of one name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from catalog.errors import CapabilityMismatch, ContextLengthExceeded, ModelNotFound
from catalog.model import Capability, Limits, Price
from routing.facts import Complexity, Facts, Mode, Task
from routing.plan import Block, Strategy
from tests.routing.catalogue import chat, local, remote, world
from tests.routing.choosing.plans import EMBED, choose, codes, firsts, group


def test_a_model_asked_for_by_name_is_the_only_candidate_whatever_its_score() -> None:
    here = world([remote("good", benchmarks={"overall": 0.9}), remote("bad", benchmarks={"overall": 0.1})])
    made = choose(chat(requested="BAD", high_stakes=True), here)
    assert [c.model.id for c in made.candidates] == ["bad"]
    assert made.strategy is Strategy.EXPLICIT


def test_a_named_model_without_the_capability_is_a_mismatch_that_lists_models_with_it() -> None:
    here = world([remote("talks"), remote("embeds", capabilities=EMBED)])
    with pytest.raises(CapabilityMismatch, match="'embeds'"):
        choose(Facts(capability=Capability.EMBED, requested="talks"), here)


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ({"local_only": True}, "privacy"),
        ({"mode": Mode.LOCAL}, "privacy"),
        ({"tags": frozenset({"fast"})}, "tags"),
        ({"exclude": frozenset({"m"})}, "excluded"),
        ({"max_cost": 1e-9}, "cost"),
    ],
)
def test_the_callers_limits_hold_for_a_model_asked_for_by_name(limit: dict[str, Any], code: str) -> None:
    here = world([remote("m")])
    plan = choose(chat(requested="m", output_tokens=100, **limit), here)
    assert [exclusion.code for exclusion in plan.excluded] == [code]
    assert not plan.candidates
    assert choose(chat(requested="m", output_tokens=100), here).candidates


def test_a_named_model_of_unknown_price_is_refused_where_a_limit_on_cost_applies() -> None:
    rows = [remote("m", price=Price())]
    capped = world(rows, headroom=5.0)
    assert [exclusion.code for exclusion in choose(chat(requested="m"), capped).excluded] == ["price_unknown"]
    assert choose(chat(requested="m"), world(rows, headroom=5.0, unknown_price_allowed=True)).candidates
    assert choose(chat(requested="m"), world(rows)).candidates
    spent = world([remote("m")], headroom=0.0)
    assert choose(chat(requested="m"), spent).candidates, "the reservation refuses it and says when the cap ends"


def test_a_named_model_that_cannot_search_the_web_is_a_mismatch_that_lists_models_that_can() -> None:
    searching = frozenset({Capability.CHAT, Capability.WEB_SEARCH})
    here = world([remote("talks"), remote("searches", capabilities=searching)])
    wants = chat(features=frozenset({Capability.WEB_SEARCH}))
    with pytest.raises(CapabilityMismatch, match=r"lacks web_search\. These can: 'searches'"):
        choose(replace(wants, requested="talks"), here)
    assert [c.model.id for c in choose(wants, here).candidates] == ["searches"]


def test_a_voice_of_a_recording_that_no_model_can_speak_with_names_the_model_to_pull() -> None:
    here = world([local("kokoro", capabilities=frozenset({Capability.SPEAK}))])
    wants = Facts(
        capability=Capability.SPEAK, features=frozenset({Capability.CLONE}), requested="kokoro", task=Task.SPEECH
    )
    with pytest.raises(CapabilityMismatch, match=r"lacks clone\. .*roundhouse pull pocket-tts"):
        choose(wants, here)


def test_a_mismatch_names_only_models_that_are_ready_and_that_the_key_may_use() -> None:
    rows = [remote("talks"), remote("mine", capabilities=EMBED), remote("theirs", capabilities=EMBED)]
    wants = Facts(capability=Capability.EMBED, requested="talks", allowed=("talks", "mine"))
    with pytest.raises(CapabilityMismatch, match="These can: 'mine'\\."):
        choose(wants, world(rows))
    blocked = {"mine": Block("no_key", "no key is set")}
    with pytest.raises(CapabilityMismatch, match=r"No model .*'mine' could, but: no key is set"):
        choose(wants, world(rows, blocked=blocked))


def test_the_features_of_a_discovered_model_are_not_checked() -> None:
    wants_tools = chat(requested="m", features=frozenset({Capability.TOOLS}))
    assert choose(wants_tools, world([remote("m", origin="discovered")])).candidates
    with pytest.raises(CapabilityMismatch):
        choose(wants_tools, world([remote("m", origin="user")]))


def test_a_named_model_that_is_blocked_leaves_no_candidate_and_says_why() -> None:
    here = world([remote("m")], blocked={"m": Block("no_key", "no key works")})
    made = choose(chat(requested="m"), here)
    assert not made.candidates
    assert [(e.code, e.reason) for e in made.excluded] == [("no_key", "no key works")]


def test_a_named_model_that_was_said_to_lack_something_is_still_asked() -> None:
    here = world([remote("m")], blocked={"m": Block("breaker_cannot", "answered that it cannot do: tools")})
    assert [c.model.id for c in choose(chat(requested="m"), here).candidates] == ["m"]


def test_a_name_that_no_model_has_is_not_found() -> None:
    with pytest.raises(ModelNotFound):
        choose(chat(requested="nobody"), world([remote("m")]))


def test_every_local_model_with_a_tokenizer_splits_and_joins_tokens() -> None:
    rows = [local("gguf", capabilities=frozenset({Capability.COMPLETION})), local("vectors", capabilities=EMBED)]
    rows += [
        local("ear", engine="whisper", capabilities=frozenset({Capability.TRANSCRIBE})),
        local("mouth", engine="speech", capabilities=frozenset({Capability.SPEAK})),
        remote("far", capabilities=EMBED),
    ]
    here = world(rows)
    for name in ("gguf", "vectors", "ear"):
        assert choose(chat(requested=name, tokens_only=True), here).candidates
        with pytest.raises(CapabilityMismatch):
            choose(chat(requested=name), here)
    for name in ("mouth", "far"):
        with pytest.raises(CapabilityMismatch, match=r"has no tokenizer here.*'gguf', 'vectors', 'ear'"):
            choose(chat(requested=name, tokens_only=True), here)


def test_a_model_that_is_not_ready_is_not_offered_for_its_tokenizer() -> None:
    rows = [
        local("gone"),
        local("here"),
        local("mouth", engine="speech", capabilities=frozenset({Capability.SPEAK})),
    ]
    with pytest.raises(CapabilityMismatch, match=r"These have: 'here'\."):
        choose(
            chat(requested="mouth", tokens_only=True),
            world(rows, blocked={"gone": Block("missing", "not pulled")}),
        )


def test_auto_splits_tokens_by_a_model_that_has_a_tokenizer() -> None:
    here = world([remote("best", benchmarks={"overall": 0.99}), local("gguf"), local("talker", engine="speech")])
    made = choose(chat(tokens_only=True), here)
    assert [candidate.model.id for candidate in made.candidates] == ["gguf"]
    assert {exclusion.code for exclusion in made.excluded if exclusion.model == "best"} <= {"tokenizer"}
    assert "best" in {candidate.model.id for candidate in choose(chat(), here).candidates}


def test_a_prompt_far_over_a_local_models_window_is_refused_before_a_worker_tokenises_it() -> None:
    here = world(
        [local("m", limits=Limits(context_window=8192)), remote("far", limits=Limits(context_window=8192))]
    )
    with pytest.raises(ContextLengthExceeded, match="8192 tokens, but the request needs 1250000 tokens"):
        choose(chat(requested="m", prompt_tokens=1_250_000), here)
    assert choose(chat(requested="m", prompt_tokens=15_000), here).candidates, "the worker counts exactly"
    assert choose(chat(requested="far", prompt_tokens=1_250_000), here).candidates, "its server refuses it"


def test_many_texts_to_embed_are_not_taken_for_one_long_one() -> None:
    here = world([local("m", capabilities=EMBED, limits=Limits(context_window=256, max_input_tokens=256))])
    many = Facts(capability=Capability.EMBED, requested="m", prompt_tokens=10_000, units=32)
    assert choose(many, here).candidates


# ---- replicas


def test_replicas_of_a_name_are_all_candidates_and_other_models_are_not() -> None:
    here = group(remote("a/m"), remote("b/m"))
    made = choose(chat(requested="m"), here)
    assert {c.model.id for c in made.candidates} == {"a/m", "b/m"}
    assert made.strategy is Strategy.EXPLICIT
    assert "replica" in made.reason


@pytest.mark.parametrize("known", [0, 500], ids=["little known", "well known"])
def test_a_share_of_requests_retries_a_failed_replica_until_it_is_reliable_again(known: int) -> None:
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


def test_the_first_fallback_of_a_replica_is_in_another_failure_domain() -> None:
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


def test_blocked_replicas_are_left_out_and_if_all_are_the_plan_has_the_reason() -> None:
    broken = Block("breaker_open", "it failed too often")
    made = choose(chat(requested="m"), group(remote("a/m"), remote("b/m"), blocked={"a/m": broken}))
    assert [c.model.id for c in made.candidates] == ["b/m"]
    none = choose(chat(requested="m"), group(remote("a/m"), remote("b/m"), blocked={"a/m": broken, "b/m": broken}))
    assert not none.candidates
    assert "failed too often" in none.reason


def test_a_prompt_too_long_for_every_replica_is_left_to_the_model_to_refuse() -> None:
    made = choose(chat(requested="m", prompt_tokens=9000), group(remote("a/m"), remote("b/m")))
    assert [c.model.id for c in made.candidates] == ["a/m"]


def test_replicas_without_the_capability_are_a_mismatch() -> None:
    with pytest.raises(CapabilityMismatch):
        choose(Facts(capability=Capability.EMBED, requested="m"), group(remote("a/m"), remote("b/m")))


def test_embeddings_of_a_name_with_replicas_are_pinned_to_one_vector_space() -> None:
    here = group(remote("a/m", capabilities=EMBED), remote("b/m", capabilities=EMBED))
    made = choose(Facts(capability=Capability.EMBED, requested="M"), here)
    assert len(made.candidates) == 1
    assert made.pin == "m"


def test_max_cost_leaves_the_length_of_a_named_models_answer_to_its_bound() -> None:
    dear = Price(input=1.0, output=10_000.0)
    for rows in (
        [remote("m", price=dear)],
        [remote("a", name="m", price=dear), remote("b", name="m", price=dear)],
    ):
        assert choose(chat(requested="m", max_cost=0.30), world(rows)).candidates
        plan = choose(chat(requested="m", max_cost=0.30, output_tokens=300), world(rows))
        assert {exclusion.code for exclusion in plan.excluded} == {"cost"}
    auto = choose(chat(max_cost=0.30), world([remote("m", price=dear)]))
    assert "max_tokens" in auto.excluded[0].reason
