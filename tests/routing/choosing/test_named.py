"""Models asked for by name: one model, or several replicas of one name."""

from __future__ import annotations

import pytest

from catalog.errors import CapabilityMismatch, ModelNotFound
from catalog.model import Capability
from routing.facts import Complexity, Facts, Task
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
