"""An invalid answer is given up for another candidate's when the caller may wait."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from backends.wire.chat import ChatRequest
from catalog.errors import AnswerInvalid, UpstreamProtocolError
from catalog.types import Json
from routing.calling.watching.judgement import judge_for
from routing.facts import Intent
from routing.outcomes import Result
from tests.routing.calling.scripted import FACTS, GOOD, REQUEST, ROLE, USAGE, Stand, end, local, text


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


TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}


def said(*arguments: str) -> list[Json]:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    pieces = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in arguments]
    return [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in ({"tool_calls": [call]}, *pieces)
    ]


@pytest.mark.parametrize("strict", [True, False])
async def test_arguments_of_a_strict_tool_that_are_no_json_end_the_answer_in_an_error(
    stand: Stand, *, strict: bool
) -> None:
    tool = {**TOOL, "function": {**TOOL["function"], "strict": strict}}
    request = ChatRequest.model_validate({**REQUEST.to_wire(), "tools": [tool], "stream": True})
    stand.backend.scripts = {"a": (ROLE, *said('{"x"', ": "), end("tool_calls"), USAGE)}
    stand.will_try(local("a"))
    items: list[Json] = []
    with pytest.raises(AnswerInvalid) if strict else nullcontext():
        async with stand.dispatcher.open(replace(stand.job(judge=judge_for(request)), request=request)) as answer:
            async for item in answer:
                items.append(item)  # noqa: PERF401
    finishes = [choice["finish_reason"] for item in items for choice in item["choices"]]
    assert ("tool_calls" in finishes) is not strict
    (outcome,) = stand.recorder.outcomes
    assert outcome.error == ("answer_invalid" if strict else None)
    assert outcome.usage.output == 950_000, "it is paid for all the same"


async def test_the_ends_of_several_choices_wait_for_the_last(stand: Stand) -> None:
    form = {"type": "json_object"}
    request = ChatRequest.model_validate({**REQUEST.to_wire(), "response_format": form, "n": 2})
    second = {"choices": [{"index": 1, "delta": {"content": "{}"}, "finish_reason": None}]}
    ended = {"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]}
    stand.backend.scripts = {"a": (text("{}"), end(), second, ended, USAGE)}
    stand.will_try(local("a"))
    _, items = await stand.ask(replace(stand.job(judge=judge_for(request)), request=request))
    assert [len(item["choices"]) for item in items] == [1, 1, 1, 1, 0]


async def test_an_answer_in_a_form_ends_soon_after_its_last_choice(stand: Stand) -> None:
    request = ChatRequest.model_validate({**REQUEST.to_wire(), "response_format": {"type": "json_object"}})
    stand.backend.scripts = {"a": (text("{}"), end(), *([text("")] * 1001))}
    stand.will_try(local("a"))
    with pytest.raises(UpstreamProtocolError, match="goes on"):
        await stand.ask(replace(stand.job(judge=judge_for(request)), request=request))
