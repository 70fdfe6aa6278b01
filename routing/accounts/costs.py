"""Costs of calls in whole nano-dollars, from prices and usage.

Prices are dollars. A missing price is unknown, and so is every cost that needs it. Whole nano-dollars neither
drift nor depend on the order of addition.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache

from catalog.model import UNITS, Capability, Price
from routing.outcomes import Usage
from routing.state.protocol import NANO

_UNITS = tuple(dict.fromkeys(UNITS.values()))
_PRICES = tuple(Price.model_fields)
PROMPT_MARGIN = 1.15
"""Tokens of a prompt beside their estimate, where a limit on cost must hold; see :mod:`routing.reading.tokens`."""
_MILLION = 1_000_000
_EXACT_BELOW = 2.0**50
"""Nano-dollars (about a million dollars) below which the rounding error of a float is far less than a quarter."""


def to_nano(dollars: float) -> int:
    """Whole nano-dollars of a number as it is written: 0.1 is a tenth, not the float nearest to it."""
    scaled = dollars * NANO
    if scaled < _EXACT_BELOW and abs(scaled - (whole := round(scaled))) < 0.25:
        return whole  # not near a half, where the rounding error of the float would matter
    return int((Decimal(str(dollars)) * NANO).to_integral_value(ROUND_HALF_EVEN))


def cost_nano(price: Price, usage: Usage, capability: Capability | None = None) -> int | None:
    """Cost in nano-dollars; ``None`` when the usage or a price that it needs is unknown.

    ``usage.input`` contains ``cached`` and ``cache_write``, ``usage.output`` contains ``reasoning``. Cached tokens
    without a price of their own cost as much as uncached ones, which is an upper bound. Units are priced by the
    capability's unit; without a capability, by the only unit that has a price.
    """
    if not usage.known:
        return 0 if is_free(price) else None
    tokens = _token_cost(price, usage)
    units = _unit_cost(price, usage, capability)
    exact = tokens if units is None else units + (tokens or 0)
    if exact is None or isinstance(exact, int):
        return exact
    return int(exact.to_integral_value(ROUND_HALF_EVEN))


def affordable_output(price: Price, prompt_tokens: int, dollars: float) -> float | None:
    """The most output tokens with which a call costs at most ``dollars``; below 0 if its prompt alone costs more.

    ``prompt_tokens`` is an estimate, which counts with :data:`PROMPT_MARGIN`, and every token of it as written to
    a cache where that is dearer. Infinite if the output is free, ``None`` if a price is unknown.
    """
    prompt = math.ceil(prompt_tokens * PROMPT_MARGIN)
    written = prompt if (price.cache_write or 0) > (price.input or 0) else 0
    alone = cost_nano(price, Usage(input=prompt, cache_write=written))
    with_million = cost_nano(price, Usage(input=prompt, output=_MILLION, cache_write=written))
    if alone is None or with_million is None:
        return None
    room = to_nano(dollars) - alone
    if with_million == alone:
        return math.inf if room >= 0 else -1
    return room * _MILLION // (with_million - alone)


def is_free(price: Price) -> bool:
    """Whether every known price is zero, so that the cost is known without the usage."""
    known = [rate for name in _PRICES if (rate := getattr(price, name)) is not None]
    return bool(known) and not any(known)


@lru_cache(maxsize=1024)
def _nano_per_token(rate: float) -> int | Decimal:
    """Nano-dollars per token of a price per million tokens as it is written: nearly always a whole number."""
    exact = Decimal(str(rate)) * (NANO // 1_000_000)
    return int(exact) if exact == int(exact) else exact


def _token_cost(price: Price, usage: Usage) -> int | Decimal | None:
    if price.input is None and price.output is None:
        return None
    total: int | Decimal = 0
    parts: tuple[tuple[int, float | None], ...] = ((usage.input, price.input),)
    if usage.cached or usage.cache_write:
        uncached = max(0, usage.input - usage.cached - usage.cache_write)
        read = price.cache_read if price.cache_read is not None else price.input
        parts = ((uncached, price.input), (usage.cached, read), (usage.cache_write, price.cache_write))
    for tokens, rate in (*parts, (usage.output, price.output)):
        if tokens and rate is None:
            return None
        if tokens and rate is not None:
            total += tokens * _nano_per_token(rate)
    return total


def _unit_cost(price: Price, usage: Usage, capability: Capability | None) -> Decimal | None:
    if not usage.units:
        return None
    units = _UNITS if capability is None else tuple(filter(None, [UNITS.get(capability)]))
    rates = {Decimal(str(rate)) / per for name, per in units if (rate := getattr(price, name)) is not None}
    if len(rates) != 1:
        return None
    return Decimal(str(usage.units)) * rates.pop() * NANO
