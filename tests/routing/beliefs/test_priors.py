"""Priors: each row's quality by the best that is known of it, with a strength that says how little that is."""

from __future__ import annotations

from typing import Any

import pytest

from catalog.catalog import Catalog
from catalog.index import Index
from catalog.model import Capability, Model, Price, Size, UpstreamSource
from routing.beliefs.posterior import TASK_AT
from routing.beliefs.priors import Prior, Source, priors_of
from routing.facts import Task
from routing.settings import Learning
from tests.routing.catalogue import local, remote

RULES = Learning()


def row(id_: str, **changes: Any) -> Model:
    return remote(id_, **{"benchmarks": {}, "price": Price(), **changes})


def known(*models: Model, private: tuple[str, ...] = (), **rules: float) -> dict[str, Prior]:
    flags = [model.local or model.id in private for model in models]
    found = priors_of(models, flags, Learning(**rules))
    return {model.id: prior for model, prior in zip(models, found, strict=True)}


def chat(prior: Prior) -> float:
    return float(prior.mean[TASK_AT[Task.CHAT]])


def line(*extra: Model) -> dict[str, Prior]:
    """Four measured models of one provider, dearer and newer ones better, and others."""
    measured = [
        row(f"m-{version}-at{price}", price=Price(output=price), benchmarks={"overall": quality})
        for version, price, quality in ((1, 1, 0.5), (1, 10, 0.6), (2, 1, 0.6), (2, 10, 0.7))
    ]
    return known(*measured, *extra, benchmark_trust=1.0)


def test_published_figures_become_qualities_and_one_task_counts_half_beside_the_index() -> None:
    found = known(row("a", published={"aa_index_4_3": 57.6, "swe_bench_pro": 0}), benchmark_trust=1.0)["a"]
    assert chat(found) == pytest.approx(0.9)
    assert found.mean[TASK_AT[Task.CODE]] == pytest.approx(0.7)
    assert (found.source, found.strength) == (Source.BENCHMARKS, RULES.prior_strength)


def test_a_rows_own_benchmarks_go_before_published_figures_and_are_not_pooled() -> None:
    both = row(
        "a", published={"aa_index_4_3": 57.6, "swe_bench_pro": 80.3}, benchmarks={"code": 0.2, "overall": 0.4}
    )
    found = known(both, benchmark_trust=1.0)["a"]
    assert chat(found) == pytest.approx(0.4)
    assert found.mean[TASK_AT[Task.CODE]] == pytest.approx(0.2)


def test_a_successor_is_believed_a_little_better_than_what_it_succeeds() -> None:
    before = row("a-1", benchmarks={"overall": 0.8}, successor="a-2")
    found = known(before, row("a-2"), benchmark_trust=1.0)
    assert chat(found["a-2"]) == pytest.approx(0.82)
    assert found["a-2"].source is Source.SUCCESSION
    assert RULES.guess_strength < found["a-2"].strength < RULES.prior_strength


def test_price_and_version_place_an_unmeasured_row_among_the_measured_ones_of_its_provider() -> None:
    found = line(row("m-1-mid", price=Price(output=10**0.5)), row("m-2-mid", price=Price(output=10**0.5)))
    assert chat(found["m-1-mid"]) == pytest.approx(0.55)
    assert chat(found["m-2-mid"]) == pytest.approx(0.65)
    assert found["m-1-mid"].source is Source.PRICE
    assert found["m-1-mid"].strength == RULES.price_strength


def test_a_price_alone_puts_no_row_above_the_best_measured_one() -> None:
    assert chat(line(row("m-2-gold", price=Price(output=10_000)))["m-2-gold"]) == pytest.approx(0.68)


def test_what_is_succeeded_by_a_weaker_row_is_weaker_still() -> None:
    old = row("m-1-old", price=Price(output=10_000), successor="m-1-at1")
    assert chat(line(old)["m-1-old"]) == pytest.approx(0.48)


def test_successors_in_a_circle_end() -> None:
    found = known(row("a", price=Price(output=1), successor="b"), row("b", price=Price(output=1), successor="a"))
    assert all(0.4 < chat(prior) < 0.8 for prior in found.values())


def test_without_measured_peers_the_dearer_model_of_a_provider_is_believed_slightly_better() -> None:
    found = known(row("cheap", price=Price(output=1)), row("dear", price=Price(output=4)))
    assert chat(found["cheap"]) < 0.7 < chat(found["dear"])
    assert {prior.strength for prior in found.values()} == {RULES.guess_strength}


def test_an_introductory_price_is_no_signal() -> None:
    later = Price(output=1, later={"on": "2026-12-01", "output": 10})
    found = line(row("m-2-new", price=later))
    assert chat(found["m-2-new"]) == pytest.approx(0.68)


def test_the_same_model_at_another_server_has_its_makers_figures_but_not_at_a_private_one() -> None:
    made = row("claude-opus-5-5", origin="builtin", published={"aa_index_4_3": 57.6})
    there = [
        row(f"{at}/anthropic/claude-opus-5.5", origin="discovered").model_copy(
            update={"source": UpstreamSource(endpoint=at, model="anthropic/claude-opus-5.5")}
        )
        for at in ("proxy", "home")
    ]
    found = known(made, *there, private=("home/anthropic/claude-opus-5.5",), benchmark_trust=1.0)
    assert chat(found["proxy/anthropic/claude-opus-5.5"]) == pytest.approx(0.9)
    assert found["proxy/anthropic/claude-opus-5.5"].source is Source.SAME_MODEL
    assert chat(found["home/anthropic/claude-opus-5.5"]) == 0.5


def test_a_size_in_the_name_counts_as_one_in_the_row_and_nothing_known_is_a_guess() -> None:
    models = [
        row("home/qwen2.5-0.5b"),
        local("here", benchmarks={}, size=Size(parameters=500_000_000)),
        row("home/model"),
        row("far/model"),
    ]
    found = known(*models, private=("home/qwen2.5-0.5b", "home/model"))
    assert chat(found["home/qwen2.5-0.5b"]) == pytest.approx(chat(found["here"]))
    assert found["home/qwen2.5-0.5b"].source is Source.SIZE
    assert (chat(found["home/model"]), chat(found["far/model"])) == (0.5, 0.7)
    assert found["home/model"].source is Source.GUESS


def test_every_built_in_remote_row_has_a_prior_that_tells_it_from_its_providers_others() -> None:
    catalog = Catalog.load()
    index = Index(catalog, {server.id: server for server in catalog.servers})
    found = dict(zip(index.rows, priors_of(index.models, index.private.tolist(), RULES), strict=True))
    for provider, strongest, weakest in (
        ("anthropic", "claude-opus-5-5", "claude-haiku-4-5"),
        ("openai", "gpt-6.2-astra", "gpt-4o-mini"),
        ("google", "gemini-4-argon", "gemini-2.5-flash-lite"),
    ):
        rows = [m for m in index.models if m.provider == provider and Capability.CHAT in m.capabilities]
        talkers = {m.id: chat(found[m.id]) for m in rows if "spoken" not in m.tags}
        assert max(talkers, key=talkers.__getitem__) == strongest
        assert talkers[weakest] < min(talkers.values()) + 0.02
        assert all(found[name].source is not Source.GUESS for name in talkers)
