"""Pictures, videos and sound that a provider made, or may have made, are booked, however the call ends."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import replace
from typing import Any

import pytest

from backends.notices import bill
from backends.wire.images import ImageRequest
from catalog.errors import AnswerInvalid, FirstByteTimeout, InvalidRequest, RoundhouseError, StreamBroken
from catalog.model import Capability, Model, Price
from routing.calling.job import Job
from routing.calling.operations import DRAW, FILM, TRANSCRIBE, Operation
from routing.facts import Facts
from routing.outcomes import Result
from tests.routing.calling.scripted import Script, Stand, remote

BY_TOKENS = Price(input=5, image_input=8, image_output=32, picture_tokens={"low": 400, "high": 6000})
"""As of OpenAI's image models: a picture of high quality costs 0.192 dollars, one of low 0.0128."""
BY_PICTURE = Price(image=0.04)
BY_BOTH = Price(image=0.04, input=5)
PARTIAL = {"type": "image_generation.partial_image", "b64_json": "AA=="}
DRAWN = {"type": "image_generation.completed", "b64_json": "AA=="}


def picture(count: int = 1, *, quality: str = "high") -> Facts:
    return Facts(Capability.IMAGE, units=float(count), picture=("1024x1024", quality))


def priced(price: Price) -> Model:
    return remote("a", "lan").model_copy(update={"price": price})


def with_usage(event: dict[str, Any], **tokens: int) -> dict[str, Any]:
    return {**event, "usage": tokens}


def job_of(stand: Stand, facts: Facts, operation: Operation[Any]) -> Job[Any]:
    """A job of this operation, for which the scripted backend's chats stand in."""
    chat = stand.job().operation
    return Job(
        facts=facts,
        operation=replace(operation, protocol=chat.protocol, call=chat.call),
        request=ImageRequest(prompt="A fox."),
        trace="trace-1",
    )


async def spent(stand: Stand, price: Price, facts: Facts, *script: Any, operation: Operation[Any] = DRAW) -> float:
    """Dollars that the cap counts for one call which ends by itself."""
    stand.backend.scripts = {"a": script}
    stand.will_try(priced(price))
    with contextlib.suppress(RoundhouseError):
        await stand.ask(job_of(stand, facts, operation))
    await stand.dispatcher.settle()
    return stand.spend.cap_usage("")[0].spent


async def left(
    stand: Stand, price: Price, facts: Facts, script: Script, operation: Operation[Any] = DRAW
) -> float:
    """Dollars that the cap counts for a call whose caller leaves after the last item of its script."""
    stand.backend.scripts = {"a": (*script, None)}
    stand.will_try(priced(price))
    items = script or ()

    async def read() -> None:
        async with stand.dispatcher.open(job_of(stand, facts, operation)) as answer:
            count = 0
            async for _ in answer:
                count += 1
                if count == len(items):
                    arrived.set()

    arrived = asyncio.Event()
    task = asyncio.create_task(read())
    while not stand.backend.open:
        await asyncio.sleep(0)
    if items:
        await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stand.dispatcher.settle()
    return stand.spend.cap_usage("")[0].spent


@pytest.mark.parametrize(
    ("price", "facts", "dollars"),
    [
        (BY_TOKENS, picture(), 0.192),
        (BY_TOKENS, picture(3), 0.576),
        (BY_TOKENS, picture(quality="low"), 0.0128),
        (BY_PICTURE, picture(2), 0.08),
        (BY_BOTH, replace(picture(2), prompt_tokens=1000), 0.085),
    ],
    ids=["by tokens", "three", "of low quality", "by picture", "by both"],
)
@pytest.mark.parametrize("pieces", [0, 1], ids=["before anything came", "after a picture in the making"])
async def test_a_caller_who_leaves_pays_for_the_pictures_that_were_being_drawn(
    capped: Stand, price: Price, facts: Facts, dollars: float, pieces: int
) -> None:
    assert await left(capped, price, facts, (PARTIAL,) * pieces) == pytest.approx(dollars)
    assert capped.results == [("lan/a", Result.CANCELLED)]


async def test_a_caller_who_leaves_after_one_of_three_pictures_pays_for_all_three(capped: Stand) -> None:
    done = with_usage(DRAWN, input_tokens=10, output_tokens=6000)
    assert await left(capped, BY_TOKENS, picture(3), (done,)) == pytest.approx(0.576)
    assert capped.results == [("lan/a", Result.CANCELLED)]
    rows = await capped.spend.usage("2000-01-01", "2999-01-01")
    assert sum(row.cost for row in rows) == pytest.approx(192_050_000), "what the server told is known"


async def test_a_caller_who_leaves_after_the_last_picture_pays_what_the_server_tells(capped: Stand) -> None:
    done = with_usage(DRAWN, input_tokens=10, output_tokens=1000)
    assert await left(capped, BY_TOKENS, picture(), (done,)) == pytest.approx(0.03205)


@pytest.mark.parametrize("price", [BY_TOKENS, BY_PICTURE], ids=["by tokens", "by picture"])
@pytest.mark.parametrize("pieces", [0, 1])
async def test_a_drawing_that_fails_midway_is_booked_as_drawn(capped: Stand, price: Price, pieces: int) -> None:
    cut = StreamBroken("cut")
    dollars = 0.192 if price is BY_TOKENS else 0.04
    assert await spent(capped, price, picture(), *(PARTIAL,) * pieces, cut) == pytest.approx(dollars)


async def test_a_late_answer_is_booked_as_drawn(capped: Stand) -> None:
    late = FirstByteTimeout("late")
    late.may_bill = True
    assert await spent(capped, BY_TOKENS, picture(2), late) == pytest.approx(0.384)


async def test_a_refused_drawing_costs_nothing(capped: Stand) -> None:
    assert await spent(capped, BY_TOKENS, picture(), InvalidRequest("moderation")) == 0


async def test_an_answer_without_a_picture_is_booked_by_the_usage_that_it_reports(capped: Stand) -> None:
    told = {"input_tokens": 1000, "output_tokens": 500, "output_tokens_details": {"text_tokens": 500}}
    capped.backend.before = lambda: bill(told)
    price = BY_TOKENS.model_copy(update={"output": 10})
    dollars = await spent(capped, price, picture(), AnswerInvalid("only words"))
    assert dollars == pytest.approx((1000 * 5 + 500 * 10) / 1e6)
    assert capped.recorder.outcomes[0].usage.known


async def test_the_usage_of_pictures_that_are_none_is_that_of_pictures(capped: Stand) -> None:
    capped.backend.before = lambda: bill({"input_tokens": 0, "output_tokens": 1000})
    assert await spent(capped, BY_TOKENS, picture(), AnswerInvalid("garbage")) == pytest.approx(0.032)


async def test_an_answer_without_a_picture_and_without_its_usage_is_booked_as_drawn(capped: Stand) -> None:
    assert await spent(capped, BY_TOKENS, picture(), AnswerInvalid("only words")) == pytest.approx(0.192)


@pytest.mark.parametrize(
    ("told", "dollars"), [(4.0, 0.4), (8.0, 0.8), (999.0, 0.4), (math.nan, 0.4), (-1.0, 0.4), (0.0, 0.0)]
)
async def test_a_length_of_a_video_that_cannot_be_true_is_not_booked(
    capped: Stand, told: float, dollars: float
) -> None:
    facts = Facts(Capability.VIDEO, units=4.0)
    done = {"type": "video.completed", "seconds": told}
    assert await spent(capped, Price(video=0.1), facts, done, operation=FILM) == pytest.approx(dollars)


async def test_more_pictures_than_were_asked_for_are_not_booked(capped: Stand) -> None:
    assert await spent(capped, BY_PICTURE, picture(1), DRAWN, DRAWN, DRAWN) == pytest.approx(0.04)


async def test_tokens_of_a_picture_beyond_any_picture_are_not_booked(capped: Stand) -> None:
    done = with_usage(DRAWN, input_tokens=10, output_tokens=90_000_000)
    assert await spent(capped, BY_TOKENS, picture(), done) == pytest.approx(0.192)


@pytest.mark.parametrize(("seconds", "dollars"), [(90.0, 0.009), (7 * 86_400.0, 0.006)])
async def test_a_length_of_sound_that_its_file_cannot_have_is_not_booked(
    capped: Stand, seconds: float, dollars: float
) -> None:
    facts = Facts(Capability.TRANSCRIBE, units=1.0)
    done = {"type": "transcript.text.done", "text": "x", "usage": {"type": "duration", "seconds": seconds}}
    price = Price(minute=0.006)
    assert await spent(capped, price, facts, done, operation=TRANSCRIBE) == pytest.approx(dollars)


@pytest.mark.parametrize("pieces", [0, 1])
async def test_a_caller_who_leaves_a_transcription_pays_for_the_sound(capped: Stand, pieces: int) -> None:
    facts = Facts(Capability.TRANSCRIBE, units=10.0)
    delta = {"type": "transcript.text.delta", "delta": "x"}
    price = Price(minute=0.006, input=2.5, output=10, audio_input=2.5)
    assert await left(capped, price, facts, (delta,) * pieces, TRANSCRIBE) == pytest.approx(0.06)


@pytest.mark.parametrize("pieces", [0, 1])
async def test_a_caller_who_leaves_a_video_pays_for_what_was_asked_for(capped: Stand, pieces: int) -> None:
    facts = Facts(Capability.VIDEO, units=8.0)
    begun = {"type": "video.accepted", "id": "x"}
    assert await left(capped, Price(video=0.1), facts, (begun,) * pieces, FILM) == pytest.approx(0.8)
