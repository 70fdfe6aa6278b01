"""Costs by length, tier of service and kind: each part at its own price, and an unknown part beside known ones."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.catalog import Catalog
from catalog.model import Capability, Price
from catalog.prices.rates import tiers_of
from routing.accounts.costs import Cost, cost_nano, cost_of, to_nano
from routing.outcomes import Usage, UsageDetails

MILLION = 1_000_000
PRICE = Price(
    input=2,
    output=10,
    cache_read=0.2,
    cache_write=2.5,
    cache_write_long=4,
    audio_input=32,
    audio_output=64,
    image_input=8,
    image_output=30,
    web_search=10,
    container=0.03,
    tiers={"flex": 0.5, "priority": 2.5, "us": 1.1},
)


def of(usage: Usage, price: Price = PRICE, **details: Any) -> Cost:
    return cost_of(
        price,
        Usage(
            usage.input, usage.output, usage.cached, cache_write=usage.cache_write, details=UsageDetails(**details)
        ),
    )


@pytest.mark.parametrize(
    ("tiers", "factor"),
    [((), 1), (("flex",), 0.5), (("priority",), 2.5), (("us",), 1.1), (("priority", "us"), 2.75)],
)
def test_the_tokens_cost_what_their_tier_does(tiers: tuple[str, ...], factor: float) -> None:
    usage = Usage(MILLION, MILLION, cached=MILLION // 2)
    assert of(usage, tiers=tiers).exact == to_nano(round((1 + 0.1 + 10) * factor, 6))


def test_a_tier_without_a_price_is_an_unknown_part_beside_the_listed_price() -> None:
    assert of(Usage(MILLION), tiers=("ultrafast",)) == Cost(to_nano(2), ("tier ultrafast",))


def test_tokens_written_to_a_cache_cost_by_their_time_to_live() -> None:
    usage = Usage(MILLION, cache_write=400_000)
    assert of(usage, cache_write_long=100_000).exact == to_nano(0.6 * 2 + 0.3 * 2.5 + 0.1 * 4)


def test_a_long_write_without_a_price_of_its_own_costs_as_a_short_one() -> None:
    price = Price(input=2, output=10, cache_write=2.5)
    assert of(Usage(MILLION, cache_write=MILLION), price, cache_write_long=MILLION).exact == to_nano(2.5)


def test_sound_and_pictures_have_their_own_prices_on_both_sides() -> None:
    usage = Usage(MILLION, MILLION)
    spent = of(usage, audio_input=100_000, image_input=200_000, audio_output=300_000, image_output=400_000)
    assert spent.exact == to_nano(0.7 * 2 + 0.1 * 32 + 0.2 * 8 + 0.3 * 10 + 0.3 * 64 + 0.4 * 30)


def test_cached_tokens_of_sound_at_the_price_of_text_are_cached() -> None:
    price = Price(input=2, output=10, cache_read=0.2, audio_input=2)
    usage = Usage(MILLION, cached=MILLION)
    assert of(usage, price, audio_input=MILLION, image_input=MILLION).exact == to_nano(0.2)


def test_searches_and_containers_are_part_of_the_cost() -> None:
    assert of(Usage(MILLION), web_searches=3, containers=2).exact == to_nano(2 + 0.03 + 0.06)


@pytest.mark.parametrize(
    ("details", "part", "known"),
    [
        ({"audio_output": 10}, "audio_output", 1_990),
        ({"image_output": 10}, "image_output", 1_990),
        ({"audio_input": 10}, "audio_input", 1_990),
        ({"web_searches": 1}, "web_search", 2_000),
        ({"containers": 1}, "container", 2_000),
    ],
)
def test_a_kind_without_a_price_is_unknown_and_the_rest_is_known(
    details: dict[str, int], part: str, known: int
) -> None:
    spent = of(Usage(1_000, 1_000), Price(input=1, output=1), **details)
    assert spent == Cost(known * 1_000, (part,))
    assert spent.exact is None


def test_a_cost_of_which_nothing_is_known_is_no_zero() -> None:
    assert cost_of(Price(), Usage(5)) == Cost(None, ("input",))
    assert cost_of(Price(input=0.6), Usage(units=40), Capability.SPEAK) == Cost(None, ("character",))
    assert cost_of(Price(), Usage(known=False)) == Cost(None, ("usage",))


def test_beyond_its_length_every_token_of_a_prompt_has_the_long_price() -> None:
    price = Price(
        input=1, output=5, cache_read=0.1, long={"above": 200_000, "input": 2, "output": 7.5, "cache_read": 0.2}
    )
    assert cost_nano(price, Usage(200_000, 100)) == 200_000 * 1_000 + 100 * 5_000
    assert cost_nano(price, Usage(200_001, 100)) == 200_001 * 2_000 + 100 * 7_500
    assert cost_nano(price, Usage(300_000, 0, cached=100_000)) == 200_000 * 2_000 + 100_000 * 200


def test_a_long_price_that_is_not_named_rises_as_the_price_of_the_text_does() -> None:
    price = Price(
        input=2, output=10, cache_read=0.2, cache_write=2.5, audio_output=20, image_input=1,
        long={"above": 1000, "input": 4, "output": 15},
    )  # fmt: skip
    rates = price.rates.long
    assert (rates.cache_read, rates.cache_write, rates.cache_write_long) == (400, 5_000, 5_000)
    assert (rates.audio_output, rates.image_input, rates.audio_input) == (30_000, 2_000, None)
    only = Price(input=2, output=10, cache_write=3, long={"above": 1000, "output": 15}).rates.long
    assert (only.input, only.cache_write) == (2_000, 3_000)
    free = Price(input=0, output=1, cache_write=3, long={"above": 1000, "input": 1}).rates.long
    assert (free.input, free.output, free.cache_write) == (1_000, 1_000, 3_000)


def test_the_price_of_a_picture_counts_where_its_tokens_have_none() -> None:
    drawn = Usage(1_000, 4_000, units=2, details=UsageDetails(image_output=4_000))
    assert cost_nano(Price(input=5, image=0.04), drawn, Capability.IMAGE) == to_nano(0.085)
    assert cost_nano(Price(input=5, image=0.04, image_output=30), drawn, Capability.IMAGE) == to_nano(0.125)
    assert cost_nano(Price(input=5, image=0.04, image_output=30), Usage(units=2), Capability.IMAGE) == to_nano(
        0.08
    )


def test_the_rates_of_a_row_are_compiled_once() -> None:
    price = Price(input=1, output=1, tiers={"flex": 0.5})
    assert price.rates is price.rates
    assert price.rates.of(("flex",), 1)[0] is price.rates.of(("flex",), 2)[0]
    dearer = price.model_copy(update={"input": 3.0})
    assert cost_nano(dearer, Usage(MILLION)) == to_nano(3)
    assert cost_nano(price, Usage(MILLION)) == to_nano(1)


@pytest.mark.parametrize(
    ("names", "tiers"),
    [
        (("default", "standard", "global"), ()),
        (("FLEX", None, "us"), ("flex", "us")),
        (("auto", 7, ["x"]), ()),
        (("x" * 1000, "fast", ""), ("fast",)),
    ],
)
def test_only_tiers_at_another_price_have_a_name(names: tuple[object, ...], tiers: tuple[str, ...]) -> None:
    assert tiers_of(*names) == tiers


_TOKENS = st.integers(0, 10_000_000)


@given(
    prompt=_TOKENS,
    answer=_TOKENS,
    cached=_TOKENS,
    written=_TOKENS,
    parts=st.tuples(_TOKENS, _TOKENS, _TOKENS, _TOKENS, _TOKENS),
)
def test_no_details_make_a_token_count_twice_or_not_at_all(
    prompt: int, answer: int, cached: int, written: int, parts: tuple[int, int, int, int, int]
) -> None:
    flat = Price(
        **dict.fromkeys(("input", "output", "cache_read", "cache_write", "audio_output", "image_output"), 1)
    )
    usage = Usage(prompt, answer, cached, cache_write=written, details=UsageDetails(*parts))
    mixed = flat.model_copy(update={"audio_input": 1.0, "image_input": 1.0, "cache_write_long": 1.0})
    assert cost_nano(flat.model_copy(update={"audio_input": 1.0}), usage) == (prompt + answer) * 1_000
    assert cost_nano(mixed, usage) == (prompt + answer) * 1_000


@pytest.mark.parametrize(
    ("model", "usage", "dollars"),
    [
        # platform.claude.com/docs/en/about-claude/pricing: 100,000 written for an hour, 20 searches
        (
            "claude-sonnet-5-5",
            Usage(100_000, 1_000, cache_write=100_000, details=UsageDetails(100_000, web_searches=20)),
            0.61,
        ),
        # the same page: Haiku 5.5 beyond 100,000 tokens
        ("claude-haiku-5-5", Usage(200_000, 1_000), 0.1025),
        # developers.openai.com/api/docs/pricing: flex is half
        ("gpt-6.1-terra", Usage(100_000, 10_000, details=UsageDetails(tiers=("flex",))), 0.075),
        # the same page: long context of GPT-6.2 Sol
        ("gpt-6.2-sol", Usage(300_000, 10_000), 1.35),
        # the same page: a picture of 1,000 tokens by GPT Image
        ("gpt-image-2.6-flare", Usage(100, 1_000, units=1, details=UsageDetails(image_output=1_000)), 0.0305),
        # ai.google.dev/gemini-api/docs/pricing: priority is 1.8 times, a search 1.4 cents
        (
            "gemini-3.8-flash",
            Usage(100_000, 10_000, details=UsageDetails(web_searches=1, tiers=("priority",))),
            0.2165,
        ),
    ],
)
def test_the_built_in_rows_cost_what_the_providers_pages_say(model: str, usage: Usage, dollars: float) -> None:
    row = Catalog.builtin().resolve(model)
    capability = next(iter(row.endpoints))
    assert cost_nano(row.price, usage, capability) == to_nano(dollars)


CHANGING = Price(
    input=2, output=10, cache_read=0.1, tiers={"flex": 0.5}, later={"on": "2026-12-01", "input": 4, "output": 20}
)
CHANGE = datetime(2026, 12, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(("wall", "dollars"), [(CHANGE - 1, 12.1), (CHANGE, 24.1), (CHANGE + 1e9, 24.1)])
def test_an_announced_change_of_a_price_holds_from_its_day_on(wall: float, dollars: float) -> None:
    usage = Usage(2 * MILLION, MILLION, cached=MILLION)
    assert cost_nano(CHANGING.at(wall), usage) == to_nano(dollars)
    assert cost_nano(CHANGING.at(wall), Usage(0, MILLION, details=UsageDetails(tiers=("flex",)))) == to_nano(
        5 if wall < CHANGE else 10
    )


def test_a_price_without_a_change_is_the_same_at_any_time() -> None:
    assert PRICE.at(0) is PRICE.at(1e12) is PRICE
