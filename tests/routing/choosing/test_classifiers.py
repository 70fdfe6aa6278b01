"""Which models classify: chat models that were measured to be good at it, else similarity."""

from __future__ import annotations

import pytest

from catalog.model import Capability, Model
from routing.beliefs.estimator import Estimator
from routing.beliefs.learning import Learner
from routing.facts import Complexity, Facts, Task
from tests.routing.catalogue import SETTINGS, local, world
from tests.routing.choosing.plans import choose

CHAT = local(
    "chat",
    capabilities=frozenset({Capability.CHAT, Capability.CLASSIFY}),
    size={"parameters": 70_000_000_000},
    benchmarks={},
)
SMALL = local("small", capabilities=frozenset({Capability.CHAT, Capability.CLASSIFY}), benchmarks={})
EMBED = local(
    "embed", capabilities=frozenset({Capability.EMBED, Capability.CLASSIFY}), benchmarks={"overall": 0.9}
)
TRAINED = local("trained", capabilities=frozenset({Capability.CLASSIFY}), benchmarks={})
FACTS = Facts(capability=Capability.CLASSIFY, task=Task.CLASSIFY)


def chosen(*rows: Model, scores: dict[str, float] | None = None, facts: Facts = FACTS) -> set[str]:
    estimator = Estimator(SETTINGS, writer="test")
    here = world(list(rows), estimator=estimator)
    Learner(estimator).import_priors({model: {"classify": score} for model, score in (scores or {}).items()})
    return {candidate.model.id for candidate in choose(facts, here).candidates}


def test_a_chat_model_that_nothing_was_measured_of_leaves_classification_to_similarity() -> None:
    assert chosen(CHAT, SMALL, EMBED) == {"embed"}


def test_a_chat_model_measured_above_the_floor_classifies_in_place_of_similarity() -> None:
    assert chosen(CHAT, SMALL, EMBED, scores={"chat": 0.9}) == {"chat"}


def test_a_chat_model_measured_below_the_floor_does_not_classify() -> None:
    assert chosen(CHAT, SMALL, EMBED, scores={"chat": 0.6, "small": 0.3}) == {"embed"}


def test_reports_lift_a_chat_model_above_the_floor() -> None:
    estimator = Estimator(SETTINGS, writer="test")
    here = world([SMALL, EMBED], estimator=estimator)
    for _ in range(60):
        estimator.observe_quality("small", Task.CLASSIFY, Complexity.SIMPLE, 1.0)
    assert [candidate.model.id for candidate in choose(FACTS, here).candidates] == ["small"]


def test_a_trained_classifier_stays_a_choice_beside_either() -> None:
    assert chosen(CHAT, EMBED, TRAINED) == {"embed", "trained"}
    assert chosen(CHAT, EMBED, TRAINED, scores={"chat": 0.95}) == {"chat", "trained"}


def test_where_one_kind_is_alone_it_classifies() -> None:
    assert chosen(CHAT, SMALL) == {"chat", "small"}
    assert chosen(EMBED) == {"embed"}


def test_a_model_named_by_the_caller_classifies_whatever_was_measured() -> None:
    assert chosen(SMALL, EMBED, facts=Facts(Capability.CLASSIFY, "small", task=Task.CLASSIFY)) == {"small"}


@pytest.mark.parametrize("engine", ["llamacpp", "onnx"])
def test_the_engine_says_that_its_models_classify(engine: str) -> None:
    from backends.workers.engines.registry import builtin_engines

    kind = {"llamacpp": Capability.CHAT, "onnx": Capability.EMBED}[engine]
    engines = builtin_engines()
    assert Capability.CLASSIFY in engines.completed(local("m", engine=engine, capabilities={kind})).capabilities
    other = local("m", engine="vllm", capabilities={kind})
    assert engines.completed(other) is other
