"""Models that their providers shut down: ``auto`` leaves them before, and a caller may still name them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from catalog.model import Capability
from routing.choosing.world import World
from tests.routing.catalogue import chat, remote, world
from tests.routing.choosing.plans import choose, codes, group

END = date(2026, 12, 11)
MIDNIGHT = datetime(2026, 12, 11, tzinfo=UTC)


def at(moment: datetime) -> World:
    return world([remote("ending", ends=END), remote("staying")], wall=moment.timestamp())


@pytest.mark.parametrize(
    ("moment", "chosen"),
    [
        (MIDNIGHT - timedelta(days=7, seconds=1), {"ending", "staying"}),
        (MIDNIGHT - timedelta(days=7), {"staying"}),
        (MIDNIGHT, {"staying"}),
        (MIDNIGHT + timedelta(days=400), {"staying"}),
    ],
)
def test_auto_leaves_a_model_seven_days_before_its_end(moment: datetime, chosen: set[str]) -> None:
    made = choose(chat(), at(moment))
    assert {candidate.model.id for candidate in made.candidates} == chosen


def test_the_rows_that_auto_may_choose_change_when_the_last_days_of_one_begin() -> None:
    here = at(MIDNIGHT - timedelta(days=30))
    assert len(choose(chat(), here).candidates) == 2
    later = World(
        index=here.index, estimator=here.estimator, now=0.0, blocked=here.blocked, wall=MIDNIGHT.timestamp()
    )
    assert [candidate.model.id for candidate in choose(chat(), later).candidates] == ["staying"]


def test_the_reason_names_the_day() -> None:
    made = choose(chat(), at(MIDNIGHT))
    assert codes(made) == {"ending": "ends"}
    assert "2026-12-11" in next(iter(made.excluded)).reason


def test_a_model_past_its_end_still_goes_when_asked_for_by_name() -> None:
    made = choose(chat(requested="ending"), at(MIDNIGHT + timedelta(days=9)))
    assert [candidate.model.id for candidate in made.candidates] == ["ending"]


def test_of_the_replicas_of_a_name_those_that_stay_go_first() -> None:
    rows = [remote("ending", ends=END), remote("staying")]
    made = choose(chat(requested="m"), group(*rows, wall=MIDNIGHT.timestamp()))
    assert [candidate.model.id for candidate in made.candidates] == ["staying"]
    made = choose(chat(requested="m"), group(rows[0], remote("too", ends=END), wall=MIDNIGHT.timestamp()))
    assert [candidate.model.id for candidate in made.candidates] == ["ending"]


def test_a_pinned_alias_stays_with_its_model() -> None:
    row = remote("vectors", ends=END, capabilities=frozenset({Capability.EMBED}))
    here = world([row, remote("m")], wall=MIDNIGHT.timestamp(), pins={"auto": "vectors"})
    made = choose(chat(requested="auto", capability=Capability.EMBED), here)
    assert [candidate.model.id for candidate in made.candidates] == ["vectors"]
