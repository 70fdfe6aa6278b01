"""Public figures: known by name, comparable by one rule, given where the built-in rows have them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from catalog.benchmarks import BENCHMARKS, OVERALL, qualities
from catalog.catalog import Catalog
from catalog.model import Capability, Model, UpstreamSource
from catalog.names.sizes import weights_in
from routing.facts import Task

NEW_TASKS = {"maths", "translate", "write"}
"""Tasks that benchmarks may name before, or without, a task of the router."""


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_small_models_figure_is_a_half_and_the_best_one_nine_tenths(name: str) -> None:
    benchmark = BENCHMARKS[name]
    assert benchmark.quality(benchmark.small) == pytest.approx(0.5)
    assert benchmark.quality(benchmark.best) == pytest.approx(0.9)
    assert set(benchmark.tasks) <= {OVERALL, *(task.value for task in Task), *NEW_TASKS}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_quality_rises_towards_the_best_figure_and_stays_within_its_bounds(name: str) -> None:
    benchmark = BENCHMARKS[name]
    steps = [benchmark.chance + (benchmark.best - benchmark.chance) * step / 20 for step in range(30)]
    found = [benchmark.quality(figure) for figure in steps]
    assert found == sorted(found)
    assert min(found) >= 0.05
    assert max(found) <= 0.95


def test_benchmarks_of_one_task_are_averaged() -> None:
    found = qualities({"gsm8k": 99.0, "gpqa_diamond": 25})
    assert found["reasoning"] == pytest.approx(0.7)


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match=r"'mmlu' is no benchmark known here; known: aa_coding_agents"):
        Model(
            id="m",
            capabilities=frozenset({Capability.CHAT}),
            source=UpstreamSource(endpoint="e", model="m"),
            published={"mmlu": 90},
        )


def test_the_figures_of_the_built_in_rows_are_percentages_or_ratings_within_their_benchmark() -> None:
    for row in Catalog.load():
        for name, figure in row.published.items():
            benchmark = BENCHMARKS[name]
            low, high = sorted((benchmark.chance, benchmark.best))
            assert low <= figure <= high, (row.id, name)


def test_each_providers_newest_chat_models_have_a_measured_one_among_them() -> None:
    for provider in ("anthropic", "openai", "google"):
        measured = [row for row in Catalog.load() if row.provider == provider and "aa_index_4_3" in row.published]
        assert len(measured) >= 6, provider


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("qwen2.5-0.5b-instruct", 0.5e9),
        ("llama3.1:70b", 70e9),
        ("meta-llama/Llama-3.2-1B-Instruct", 1e9),
        ("smollm2-135m", 135e6),
        ("qwen3-30b-a3b", 9.49e9),
        ("mixtral-8x7b", 28e9),
        ("gemma-3n-e4b-it", 4e9),
        ("qwen2.5-7b-instruct-1m", 7e9),
        ("gpt-4o-mini", None),
        ("model-1m", None),
        ("claude-opus-5-5", None),
        ("qwen-0b", None),
    ],
)
def test_weights_are_read_from_a_name(name: str, weights: float | None) -> None:
    assert weights_in(name) == (None if weights is None else pytest.approx(weights, rel=1e-3))
