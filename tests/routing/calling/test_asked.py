"""An answer of a server that refuses the usual form: its missing usage is named, and its speed not mistaken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backends.base import Upstream
from backends.wire.chat import ChatRequest
from catalog.errors import UnsupportedParameter
from catalog.model import Capability
from routing.calling.job import Job
from routing.facts import Facts, Intent
from routing.outcomes import Result
from tests.routing.calling.scripted import Stand, end, remote, text

LONG = Facts(Capability.CHAT, prompt_tokens=1000, output_tokens=500)
SAID = (text("fine"), end())


def job(stand: Stand, *, facts: Facts = LONG, **fields: Any) -> Job[Any]:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return replace(stand.job(facts), request=ChatRequest.model_validate(body))


async def learned(stand: Stand, form: Any) -> None:
    """Let one call teach the row's upstream that streams of the usual form are refused."""
    stand.backend.scripts = {"far": SAID}
    stand.will_try(remote("far"))
    await stand.ask(job(stand))
    upstream: Upstream = stand.backend.calls[-1]
    upstream.asked.learn(form, instead_of="stream")


ASKS = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    ("fields", "named"),
    [(ASKS, ("stream_options.include_usage",)), ({"stream": True}, ("usage",)), ({}, ("usage",))],
)
async def test_a_stream_without_usage_says_so_and_books_the_reserved_amount(
    capped: Stand, fields: dict[str, Any], named: tuple[str, ...]
) -> None:
    await learned(capped, "bare")
    before = capped.spend.cap_usage("")[0].spent
    async with capped.dispatcher.open(job(capped, **fields)) as answer:
        assert answer.dropped == named
        assert answer.headers()["x-roundhouse-dropped"] == named[0]
        assert [item async for item in answer]
    spent = capped.spend.cap_usage("")[0].spent - before
    assert spent == pytest.approx(0.002166), "1,166 prompt tokens at most at $1 and 500 at $2 a million"
    assert capped.recorder.outcomes[-1].cost is None


async def test_strict_refuses_a_stream_whose_usage_cannot_be_had(stand: Stand) -> None:
    await learned(stand, "bare")
    strict = replace(LONG, intent=Intent(strict=True))
    with pytest.raises(UnsupportedParameter):
        await stand.ask(job(stand, facts=strict, **ASKS))
    assert await stand.ask(job(stand, facts=strict, stream=True))


async def test_the_keys_of_a_row_share_what_was_learned(stand: Stand) -> None:
    await learned(stand, "plain")
    await stand.ask(job(stand))
    first, second = stand.backend.calls
    assert first.api_key != second.api_key
    assert first.asked is second.asked


async def test_the_time_of_an_answer_that_cannot_be_streamed_is_no_time_to_first_token(stand: Stand) -> None:
    await learned(stand, "plain")
    async with stand.dispatcher.open(job(stand, stream=True)) as answer:
        assert not answer.dropped
        assert [item async for item in answer]
    outcome = stand.recorder.outcomes[-1]
    assert outcome.result is Result.SUCCESS
    assert outcome.unstreamed
    assert outcome.first_chunk is None
