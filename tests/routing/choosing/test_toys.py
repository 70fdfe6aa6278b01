"""A row that is tagged as a toy answers only where no other can."""

from __future__ import annotations

import dataclasses

import pytest

from catalog.catalog import Catalog
from catalog.model import Capability, Price
from routing.beliefs.estimator import Estimator
from routing.choosing.world import World
from routing.facts import Complexity, Facts, Intent, Mode, Task, Workload
from routing.settings import ColdStart
from tests.routing.catalogue import SETTINGS, chat, local, remote, world
from tests.routing.choosing.plans import choose, firsts

IMAGE = frozenset({Capability.IMAGE})
ROWS = [row for row in Catalog.builtin() if Capability.IMAGE in row.capabilities]
TOY = next(row for row in ROWS if row.id == "doodle")
DEAR = remote("dear", capabilities=IMAGE, price=Price(image=4), benchmarks={"image": 0.1})


def drawing(**intent: object) -> Facts:
    return Facts(Capability.IMAGE, task=Task.IMAGE, prompt_tokens=12, intent=Intent(**intent))  # type: ignore[arg-type]


def practised(*, toy: float, others: float, rows: list = ROWS) -> World:  # type: ignore[type-arg]
    """A world in which many outcomes told how good the toy is, and how bad the others."""
    here = world(rows, estimator=Estimator(SETTINGS, writer="test"))
    for row in rows:
        for _ in range(200):
            score = toy if row.id == TOY.id else others
            here.estimator.observe_quality(row.id, Task.IMAGE, Complexity.SIMPLE, score)
    here.estimator.refresh()
    return here


@pytest.mark.parametrize("workload", list(Workload))
@pytest.mark.parametrize("prefer_quality", [True, False])
@pytest.mark.parametrize("mode", [mode for mode in Mode if mode is not Mode.LOCAL])
def test_a_toy_is_never_chosen_beside_another(mode: Mode, workload: Workload, prefer_quality: bool) -> None:
    facts = drawing(mode=mode, workload=workload, prefer_quality=prefer_quality)
    own = local("sdxl", engine="diffusion", capabilities=IMAGE, benchmarks={})
    assert TOY.id not in firsts(facts, world([*ROWS, own]))
    assert firsts(facts, world([TOY, own])).keys() == {"sdxl"}
    assert firsts(facts, world([TOY])).keys() == {TOY.id}


@pytest.mark.parametrize("row", [row for row in ROWS if row is not TOY], ids=lambda row: row.id)
def test_every_other_model_comes_before_it(row) -> None:  # type: ignore[no-untyped-def]
    assert firsts(drawing(), world([TOY, row])).keys() == {row.id}
    assert [one.model.id for one in choose(drawing(), world([TOY, row])).candidates] == [row.id, TOY.id]


def test_neither_price_nor_what_was_learned_puts_it_first() -> None:
    assert firsts(drawing(mode=Mode.CHEAP), world([TOY, DEAR])).keys() == {"dear"}
    here = practised(toy=1.0, others=0.0, rows=[TOY, DEAR])
    assert firsts(drawing(), here).keys() == {"dear"}
    assert TOY.id not in firsts(drawing(), practised(toy=1.0, others=0.0))
    assert firsts(drawing(prefer_local=True), here).keys() == {"dear"}


def test_the_callers_limits_may_leave_nothing_else() -> None:
    here = world([TOY, DEAR])
    for limit in ({"local_only": True}, {"max_cost": 0.01}, {"exclude": frozenset({"dear"})}):
        assert [one.model.id for one in choose(drawing(**limit), here).candidates] == [TOY.id]
    named = dataclasses.replace(drawing(), requested=TOY.id)
    assert [one.model.id for one in choose(named, here).candidates] == [TOY.id]


def test_the_settings_may_prefer_it_by_its_name() -> None:
    preferring = SETTINGS.model_copy(update={"preferred": {Capability.IMAGE: TOY.id}})
    assert firsts(drawing(), world([TOY, DEAR]), preferring).keys() == {TOY.id}


def test_it_comes_after_a_chat_model_of_which_nothing_is_known() -> None:
    toy = remote("toy", tags=frozenset({"toy", "trusted"}), benchmarks={"overall": 0.99})
    unproven = local("small")
    settings = SETTINGS.model_copy(update={"cold_start": ColdStart(explore=0)})
    assert firsts(chat(task=Task.CODE), world([toy, unproven]), settings).keys() == {"small"}
