"""The simulation's bounds on regret, on a few seeds. ``make bench`` runs all of them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench.simulation import compare, fractions
from tests.bench.worlds import plain_world

COMPARED = ("random", "one Beta per model", "Roundhouse")


@pytest.mark.parametrize("change", [False, True])
def test_regret_is_a_fraction_of_that_without_learning_by_task(change: bool) -> None:
    curves = compare(lambda seed: plain_world(seed, change=change), range(100, 106), COMPARED)
    of_one, of_random = fractions(curves)
    assert of_one < 0.5, "a few seeds scatter; the bound of twenty is 0.32"
    assert of_random < (0.2 if change else 0.13)


def test_a_model_that_became_worse_is_no_longer_chosen() -> None:
    world = plain_world(101, change=True)
    curves = compare(lambda seed: plain_world(seed, change=True), [101], ("Roundhouse",))
    regret = curves["Roundhouse"].regret
    change = world.changes_at
    stayed = np.array([world.utility_at(step).max() for step in range(change, world.requests)])
    assert regret[change + 300 :].mean() < 0.1 * stayed.mean()
