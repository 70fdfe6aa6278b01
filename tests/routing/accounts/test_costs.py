"""Costs of calls: exact sums, and unknown prices that are never free."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.model import FREE, Capability, Price
from routing.accounts.costs import cost_nano, to_nano
from routing.outcomes import Usage
from routing.state.protocol import NANO

PRICE = Price(input=3, output=15, cache_read=0.3, cache_write=3.75)


def test_cached_and_written_tokens_have_their_own_price() -> None:
    usage = Usage(input=1_000_000, output=100_000, cached=400_000, cache_write=100_000)
    assert cost_nano(PRICE, usage) == to_nano(0.5 * 3 + 0.4 * 0.3 + 0.1 * 3.75 + 0.1 * 15)


def test_cached_tokens_without_a_price_cost_as_much_as_uncached_ones() -> None:
    assert cost_nano(Price(input=2, output=1), Usage(input=1_000_000, cached=500_000)) == to_nano(2.0)


@pytest.mark.parametrize(
    ("price", "usage"),
    [
        (Price(), Usage(input=1)),
        (Price(), Usage()),
        (Price(input=1), Usage(input=1, output=1)),
        (Price(input=1, output=1), Usage(input=1, cache_write=1)),
        (Price(input=1, output=1), Usage(input=1, known=False)),
        (Price(input=1, output=1), Usage(units=3)),
    ],
)
def test_a_missing_price_or_usage_is_unknown_and_never_free(price: Price, usage: Usage) -> None:
    wanted = None if usage.units == 0 or price.input is None else 0
    assert cost_nano(price, usage) == wanted


@pytest.mark.parametrize(
    ("price", "capability", "units", "dollars"),
    [
        (Price(image=0.04), Capability.IMAGE, 3, 0.12),
        (Price(minute=0.006), Capability.TRANSCRIBE, 2.5, 0.015),
        (Price(character=15), Capability.SPEAK, 1000, 0.015),
        (Price(search=2), Capability.RERANK, 1, 0.002),
    ],
)
def test_units_are_priced_by_the_unit_of_the_capability(
    price: Price, capability: Capability, units: float, dollars: float
) -> None:
    assert cost_nano(price, Usage(units=units), capability) == to_nano(dollars)
    assert cost_nano(price, Usage(units=units)) == to_nano(dollars)


def test_a_free_model_costs_nothing_even_if_the_usage_is_unknown() -> None:
    assert cost_nano(FREE, Usage(known=False)) == 0


@given(st.lists(st.decimals(min_value=0, max_value=10, places=6), max_size=50))
def test_sums_are_exact_in_any_order(amounts: list[object]) -> None:
    assert sum(to_nano(float(str(amount))) for amount in amounts) == sum(
        int(str(amount).replace(".", "")) * 1000 for amount in amounts
    )


@given(st.floats(min_value=0, max_value=5e6) | st.integers(0, 10**7).map(lambda halves: (halves + 0.5) / NANO))
def test_nano_dollars_are_exact_for_the_decimal_notation_of_the_number(dollars: float) -> None:
    assert to_nano(dollars) == int((Decimal(str(dollars)) * NANO).to_integral_value(ROUND_HALF_EVEN))
