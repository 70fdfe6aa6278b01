"""The simulation's bounds on regret, on a few seeds. ``make bench`` runs all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.bench.simulation import compare, fractions
from tests.bench.strategies import STRATEGIES, LinearUcb
from tests.bench.worlds import misjudged_world, mislabelled_world, plain_world, repriced_world

COMPARED = ("random", "one Beta per model", "Roundhouse")


@pytest.mark.parametrize("change", [False, True])
def test_regret_is_a_fraction_of_that_without_learning_by_task(change: bool) -> None:
    curves = compare(lambda seed: plain_world(seed, change=change), range(100, 106), COMPARED)
    of_one, of_random = fractions(curves)
    assert of_one < 0.5, "a few seeds scatter; the bound of two hundred is 0.25"
    assert of_random < (0.2 if change else 0.13)


def test_a_model_that_became_worse_is_no_longer_chosen() -> None:
    world = plain_world(101, change=True)
    curves = compare(lambda seed: plain_world(seed, change=True), [101], ("Roundhouse",))
    regret = curves["Roundhouse"].regret
    change = world.changes_at
    stayed = np.array([world.utility_at(step).max() for step in range(change, world.requests)])
    assert regret[change + 300 :].mean() < 0.1 * stayed.mean()


def test_a_seventh_of_the_labels_is_wrong_in_the_world_of_wrong_labels() -> None:
    world = mislabelled_world(7)
    assert 0.12 < float((world.seen != world.task).mean()) < 0.18
    assert (plain_world(7, change=False).task == world.task).all()


def test_two_benchmarks_are_wrong_in_the_world_of_wrong_priors() -> None:
    right, wrong = plain_world(7, change=False), misjudged_world(7)
    assert int((right.prior != wrong.prior).sum()) == 2


@pytest.mark.parametrize("name", ["Roundhouse", "LinUCB on the task", "discounted Thompson by task"])
def test_new_prices_are_known_to_the_strategies_at_once(name: str) -> None:
    world = repriced_world(3)
    at = world.prices_change_at
    free = replace(world, later_cost=np.where(np.arange(world.models) == 5, 0.0, 50.0))
    player = STRATEGIES[name](free, np.random.default_rng(0))
    assert player.choose(at, np.zeros(world.models, dtype=bool)) == 5


def test_linear_ucb_learns_the_task_at_which_a_model_is_good() -> None:
    world = plain_world(3, change=False)
    player = LinearUcb(world, np.random.default_rng(0))
    steps = np.flatnonzero(world.task == 2)[:200]
    for step in steps:
        for model in range(world.models):
            player.learn(int(step), model, good=model == 4)
    features = player._features(int(steps[0]))
    means = world.prior + (player._sums @ player._inverse @ features).diagonal()
    assert int(means.argmax()) == 4
    assert means[4] > 0.9
