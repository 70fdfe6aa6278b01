"""An invalid answer is given up for another candidate's when the caller may wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from routing.facts import Intent
from routing.outcomes import Result
from tests.routing.calling.scripted import FACTS, GOOD, ROLE, Stand, end, local, text


class WantsFine:
    """A judge to whom only ``fine`` is valid."""

    def __init__(self) -> None:
        self.said = ""

    def see(self, item: Any) -> None:
        self.said += "".join(c["delta"].get("content") or "" for c in item["choices"])

    def verdict(self) -> bool | None:
        return self.said == "fine"


async def test_an_invalid_answer_escalates_when_the_caller_may_wait(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, text("not json"), end()), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    patient = replace(FACTS, intent=Intent(escalate=True))
    model, items = await stand.ask(stand.job(patient, judge=WantsFine))
    assert model == "b"
    assert len(items) == len(GOOD)
    assert [outcome.valid for outcome in stand.recorder.outcomes] == [False, True]
    assert [outcome.result for outcome in stand.recorder.outcomes] == [Result.SUCCESS, Result.SUCCESS]


async def test_an_invalid_answer_reaches_who_may_not_wait_at_once_and_its_outcome_says_so(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, text("not json"), end()), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    async with stand.dispatcher.open(stand.job(judge=WantsFine)) as answer:
        assert not stand.recorder.outcomes
        assert answer.model.id == "a"
        async for _ in answer:
            pass
    assert [outcome.valid for outcome in stand.recorder.outcomes] == [False]


async def test_the_last_candidates_answer_is_given_even_if_it_is_invalid(stand: Stand) -> None:
    stand.backend.scripts = {name: (ROLE, text("not json"), end()) for name in "ab"}
    stand.will_try(local("a"), local("b"))
    patient = replace(FACTS, intent=Intent(escalate=True))
    model, _ = await stand.ask(stand.job(patient, judge=WantsFine))
    assert model == "b"
    assert [outcome.valid for outcome in stand.recorder.outcomes] == [False, False]


@pytest.mark.parametrize("escalate", [False, True])
async def test_an_attempt_asks_its_judge_for_one_verdict(stand: Stand, escalate: bool) -> None:
    verdicts: list[str] = []

    class Counting(WantsFine):
        def verdict(self) -> bool | None:
            verdicts.append(self.said)
            return super().verdict()

    stand.backend.scripts = {"a": (ROLE, text("not json"), end()), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    await stand.ask(stand.job(replace(FACTS, intent=Intent(escalate=escalate)), judge=Counting))
    assert verdicts == (["not json", "fine"] if escalate else ["not json"])
