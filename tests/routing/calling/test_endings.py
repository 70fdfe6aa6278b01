"""Notices of a model's end: a header for its caller, one warning in the log."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from structlog.testing import capture_logs

from routing.calling.watching.endings import notice
from tests.routing.calling.scripted import GOOD, Stand, local, remote

ENDING = remote("old").model_copy(update={"ends": date(2026, 12, 11), "successor": "new"})


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        (datetime(2026, 12, 10, 23, 59, tzinfo=UTC), "cloud/old ends on 2026-12-11; use new"),
        (datetime(2026, 12, 11, tzinfo=UTC), "cloud/old ended on 2026-12-11; use new"),
    ],
)
async def test_the_caller_is_told_the_end_of_the_model_that_answered(
    stand: Stand, moment: datetime, said: str
) -> None:
    stand.clock.set_wall(moment.timestamp())
    stand.backend.scripts["old"] = GOOD
    stand.will_try(ENDING)
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.headers()["x-roundhouse-notice"] == said


async def test_a_model_without_an_announced_end_has_no_notice(stand: Stand) -> None:
    stand.backend.scripts["plain"] = GOOD
    stand.will_try(remote("plain"))
    async with stand.dispatcher.open(stand.job()) as answer:
        assert "x-roundhouse-notice" not in answer.headers()


async def test_a_backend_tells_the_caller_of_its_own_answer_in_the_same_header(stand: Stand) -> None:
    stand.backend.scripts, stand.backend.tells = {"a": GOOD}, "It guesses"
    stand.will_try(local("a"))
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.headers()["x-roundhouse-notice"] == "It guesses"
    stand.will_try(local("a").model_copy(update={"ends": date(2026, 12, 11)}))
    stand.clock.set_wall(0.0)
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.headers()["x-roundhouse-notice"].startswith("It guesses; a ends on 2026-12-11")


def test_without_a_successor_the_caller_is_told_to_choose_another() -> None:
    alone = ENDING.model_copy(update={"successor": None})
    assert notice(alone, 0.0) == "cloud/old ends on 2026-12-11; choose another model"


async def test_the_log_has_one_warning_of_each_model_that_ends(stand: Stand) -> None:
    other = ENDING.model_copy(update={"id": "cloud/other"})
    stand.backend.scripts["old"] = GOOD
    with capture_logs() as lines:
        for model in (ENDING, ENDING, other, ENDING):
            stand.will_try(model)
            await stand.ask()
    warned = [line["model"] for line in lines if line["event"] == "model_ends"]
    assert warned == ["cloud/old", "cloud/other"]
