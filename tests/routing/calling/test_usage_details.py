"""Details of usage reach the cost: tiers of service, lives of caches, kinds of tokens, tools of the provider."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from backends.wire.chat import ChatRequest
from catalog.errors import BudgetExceeded
from catalog.model import Capability, Model, Price
from catalog.prices.price import LongPrices
from catalog.types import Json
from routing.accounts.costs import affordable_output, longest_prompt, to_nano
from routing.accounts.spend import Reservation
from routing.calling.watching.observers import ImageObserver
from routing.calling.watching.usage import token_usage
from routing.facts import Facts
from routing.outcomes import Usage, UsageDetails
from routing.reading.requests import read_chat
from tests.routing.calling.scripted import Stand, end, remote, text

MILLION = 1_000_000
FACTS = Facts(Capability.CHAT, prompt_tokens=MILLION, output_tokens=MILLION)
PRICE = Price(input=1, output=2, tiers={"flex": 0.5, "batch": 0.5, "priority": 2})
RESERVED = (longest_prompt(MILLION) * 1 + MILLION * 2) / 1e6
"""Dollars for :data:`FACTS` under a cap."""


@pytest.mark.parametrize(
    ("usage", "tier", "details"),
    [
        ({}, None, None),
        ({"prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0}}, "default", None),
        ({}, "flex", UsageDetails(tiers=("flex",))),
        ({"speed": "fast", "inference_geo": "us"}, "standard", UsageDetails(tiers=("fast", "us"))),
        (
            {"cache_creation": {"ephemeral_1h_input_tokens": 4, "ephemeral_5m_input_tokens": 3}},
            None,
            UsageDetails(4),
        ),
        ({"prompt_tokens_details": {"cache_write_tokens_details": {"ttl_12h_tokens": 5}}}, None, UsageDetails(5)),
        ({"prompt_tokens_details": {"audio_tokens": 6, "image_tokens": 1}}, None, UsageDetails(0, 6, 1)),
        ({"input_token_details": {"audio_tokens": 6, "text_tokens": 1}}, None, UsageDetails(0, 6)),
        ({"completion_tokens_details": {"audio_tokens": 6, "image_tokens": 1}}, None, UsageDetails(0, 0, 0, 6, 1)),
        (
            {"server_tool_use": {"web_search_requests": 2, "containers": 1}},
            None,
            UsageDetails(0, 0, 0, 0, 0, 2, 1),
        ),
        ({"server_tool_use": {"web_search_requests": -2}, "cache_creation": [], "speed": {}}, 7, None),
        ({"server_tool_use": {"web_search_requests": "2"}, "cache_creation": "x"}, None, None),
    ],
)
def test_the_details_of_usage_are_read(usage: Json, tier: Any, details: UsageDetails | None) -> None:
    read = token_usage({"prompt_tokens": 10, "completion_tokens": 10, **usage}, tier=tier)
    assert read is not None
    assert read.details == details


@pytest.mark.parametrize("kind", ["web_search_requests", "containers"])
def test_more_searches_than_an_answer_can_make_are_no_known_usage(kind: str) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 10, "server_tool_use": {kind: 100_000}}
    assert token_usage(usage) is not None
    assert token_usage({**usage, "server_tool_use": {kind: 100_001}}) is None


def tiered(name: str, **price: Any) -> Model:
    return remote(name).model_copy(update={"price": PRICE.model_copy(update=price)})


def chunk(**more: Any) -> Json:
    return {"choices": [], "usage": {"prompt_tokens": MILLION, "completion_tokens": MILLION}, **more}


@pytest.mark.parametrize(
    ("asked", "answered", "dollars"),
    [
        ((), None, 3.0),
        ((), "priority", 6.0),
        (("flex",), None, 3.0),
        (("batch",), None, 3.0),
        (("flex", "priority"), None, 6.0),
        (("flex",), "flex", 1.5),
        (("flex",), "default", 3.0),
        (("priority",), "default", 3.0),
        (("priority",), None, 6.0),
    ],
)
async def test_the_cost_follows_the_tier_of_the_answer_else_the_dearer_of_asked_and_standard(
    stand: Stand, asked: tuple[str, ...], answered: str | None, dollars: float
) -> None:
    last = chunk() if answered is None else chunk(service_tier=answered)
    stand.backend.scripts = {"m": (text("fine"), end(), last)}
    stand.will_try(tiered("m"))
    await stand.ask(stand.job(replace(FACTS, tiers=asked)))
    assert stand.recorder.outcomes[0].cost == dollars
    assert stand.recorder.outcomes[0].unknown_parts == ()


async def test_an_unknown_part_is_named_in_the_trace_and_the_known_part_is_booked(capped: Stand) -> None:
    last = chunk()
    last["usage"]["server_tool_use"] = {"web_search_requests": 3}
    capped.backend.scripts = {"m": (text("fine"), end(), last)}
    capped.will_try(tiered("m"))
    await capped.ask(capped.job(replace(FACTS, prompt_tokens=100_000, output_tokens=10)))
    assert capped.recorder.outcomes[0].cost == 3.0
    trace = capped.traces.get("trace-1")
    assert trace is not None
    assert (trace["attempts"][0]["cost"], trace["attempts"][0]["unknown_parts"]) == (3.0, ["web_search"])
    assert trace["attempts"][0]["usage"]["details"]["web_searches"] == 3
    await capped.dispatcher.settle()
    [row] = await capped.spend.usage("2000-01-01", "2999-01-01")
    assert (row.unknown, row.cost, row.estimated) == (1, to_nano(3.0), 0)
    assert capped.spend.cap_usage("")[0].spent == 3.0


async def test_the_caps_count_what_was_reserved_where_the_known_part_is_less(capped: Stand) -> None:
    last = {
        "choices": [],
        "usage": {"prompt_tokens": 10, "completion_tokens": 0, "server_tool_use": {"web_search_requests": 3}},
    }
    capped.backend.scripts = {"m": (text("fine"), end(), last)}
    capped.will_try(tiered("m"))
    await capped.ask(capped.job(FACTS))
    await capped.dispatcher.settle()
    [row] = await capped.spend.usage("2000-01-01", "2999-01-01")
    assert (row.unknown, row.cost, row.estimated) == (1, 10_000, to_nano(RESERVED) - 10_000)
    assert capped.spend.cap_usage("")[0].spent == pytest.approx(RESERVED)


@pytest.mark.parametrize(("tiers", "times"), [((), 1), (("flex",), 1), (("priority",), 2), (("unheard-of",), 1)])
def test_the_dearest_tier_that_may_serve_a_request_is_reserved(
    capped: Stand, tiers: tuple[str, ...], times: int
) -> None:
    assert capped.spend.estimate(PRICE, replace(FACTS, tiers=tiers)) == pytest.approx(RESERVED * times)


def test_pictures_sound_and_searches_are_reserved_at_their_prices(capped: Stand) -> None:
    drawing = Facts(Capability.IMAGE, prompt_tokens=100, units=2)
    by_tokens = Price(input=5, image_output=30)
    assert capped.spend.estimate(by_tokens, drawing) == pytest.approx(0.0005 + 2 * 6_240 * 30e-6)
    by_size = by_tokens.model_copy(update={"picture_tokens": {"1K": 1120, "4K": 2520}})
    assert capped.spend.estimate(by_size, drawing) == pytest.approx(0.0005 + 2 * 1120 * 30e-6)
    large = replace(drawing, picture=("4096x4096", "high"))
    assert capped.spend.estimate(by_size, large) == pytest.approx(0.0005 + 2 * 2520 * 30e-6)
    assert capped.spend.estimate(by_tokens, large) == capped.spend.estimate(by_tokens, drawing)
    assert capped.spend.estimate(Price(image=0.04), drawing) == pytest.approx(0.08)
    searching = replace(FACTS, features=frozenset({Capability.WEB_SEARCH}), prompt_tokens=0, output_tokens=0)
    assert capped.spend.estimate(Price(input=1, output=1, web_search=10), searching) == pytest.approx(
        0.05 + longest_prompt(0) * 1e-6
    )
    assert capped.spend.estimate(Price(input=1, output=1), searching) is None
    assert capped.spend.estimate(Price(input=0, output=0), searching) == 0
    hearing = replace(FACTS, features=frozenset({Capability.AUDIO_INPUT}), output_tokens=1)
    assert capped.spend.estimate(Price(input=1, output=0, audio_input=32), hearing) == pytest.approx(
        longest_prompt(FACTS.prompt_tokens) * 32e-6
    )


def test_a_request_names_the_service_that_it_asks_for() -> None:
    message = {"role": "user", "content": "hello"}

    def tiers(**more: Any) -> tuple[str, ...]:
        return read_chat(ChatRequest.model_validate({"model": "m", "messages": [message], **more})).tiers

    assert tiers() == tiers(service_tier="auto") == tiers(service_tier="default") == ()
    assert tiers(service_tier="flex") == ("flex",)
    assert tiers(speed="fast", inference_geo="us") == ("fast", "us")


def test_the_tokens_of_an_answer_of_pictures_are_of_the_pictures() -> None:
    def seen(usage: Json) -> Usage:
        observer = ImageObserver()
        observer.see({"type": "image_generation.completed", "usage": usage})
        return observer.usage

    asked = {"input_tokens": 50, "output_tokens": 4000, "input_tokens_details": {"image_tokens": 40}}
    assert seen(asked).details == UsageDetails(image_input=40, image_output=4000)
    told = {**asked, "output_tokens_details": {"image_tokens": 3900, "text_tokens": 100}}
    assert seen(told).details == UsageDetails(image_input=40, image_output=3900)


@pytest.mark.parametrize(("tiers", "tokens"), [((), 500_000), (("flex",), 500_000), (("priority",), 250_000)])
def test_max_cost_bounds_the_answer_for_the_dearest_tier_that_may_serve_it(
    tiers: tuple[str, ...], tokens: int
) -> None:
    price = PRICE.model_copy(update={"input": 0.0})
    assert affordable_output(price, replace(FACTS, tiers=tiers), 1.0) == tokens


def test_max_cost_takes_a_prompt_with_sound_for_sound_and_a_long_one_for_long() -> None:
    heard = replace(FACTS, features=frozenset({Capability.AUDIO_INPUT}))
    dollars = longest_prompt(FACTS.prompt_tokens) * 40e-6 + 0.1
    assert affordable_output(Price(input=1, output=10, audio_input=40), heard, dollars) == 10_000
    long = LongPrices(above=MILLION, input=2, output=20)
    dollars = longest_prompt(FACTS.prompt_tokens) * 2e-6 + 0.2
    assert affordable_output(Price(input=1, output=10, long=long), FACTS, dollars) == 10_000


def test_max_cost_knows_no_price_of_a_tier_that_the_row_does_not_price() -> None:
    assert affordable_output(Price(input=1, output=2), replace(FACTS, tiers=("priority",)), 1.0) is None
    assert affordable_output(Price(input=0, output=0), replace(FACTS, tiers=("priority",)), 1.0) is not None


async def test_the_caps_count_tokens_of_a_kind_without_a_price_as_text(capped: Stand) -> None:
    written = {
        "prompt_tokens": 9000,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cache_write_tokens": 9000},
    }
    capped.backend.scripts = {"m": (text("fine"), end(), {"choices": [], "usage": written})}
    capped.will_try(remote("m"))
    await capped.ask(capped.job(replace(FACTS, prompt_tokens=10, output_tokens=5)))
    await capped.dispatcher.settle()
    assert capped.recorder.outcomes[0].unknown_parts == ("cache_write",)
    assert capped.spend.cap_usage("")[0].spent == pytest.approx((9000 * 1 + 5 * 2) / 1_000_000)


async def test_answers_together_pass_no_cap_though_prompts_have_more_tokens_than_was_estimated(
    capped: Stand,
) -> None:
    price, facts = Price(input=MILLION, output=MILLION), Facts(Capability.CHAT, prompt_tokens=5, output_tokens=5)
    taken: list[Reservation] = []
    async with AsyncExitStack() as held:
        with pytest.raises(BudgetExceeded):
            while True:
                amount = capped.spend.estimate(price, facts)
                call = capped.spend.reserve(key="", model="m", endpoint="e", amount=amount)
                taken.append(await held.enter_async_context(call))
        for call in taken:
            call.settle(25.0, Usage(20, 5))
    assert taken
    assert capped.spend.cap_usage("")[0].spent <= 100
