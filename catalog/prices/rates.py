"""Exact rates per token, compiled from the prices of a row, by length of the prompt and by tier of service."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

NANO_PER_MICRO = 1_000
"""A dollar per million tokens is a thousand nano-dollars per token."""

Rate = int | Decimal | None
"""Nano-dollars per token: nearly always a whole number. ``None`` means unknown."""

STANDARD = frozenset({"", "auto", "default", "standard", "on_demand", "scale", "global", "not_available"})
"""Names of tiers, speeds and regions at the listed price; ``scale`` is prepaid, ``auto`` the project's setting."""
RESOLUTIONS = frozenset({"360p", "480p", "1080p", "4k"})
"""Tiers of videos, by their shorter side; 720p is the listed price, and so is one that a row does not list."""
KNOWN_TIERS = RESOLUTIONS | frozenset(
    {"batch", "flex", "priority", "fast", "ultrafast", "performance", "reserved", "premium", "us", "eu"}
)
"""Names of tiers, speeds and regions that providers use; see ``service_tier``, ``speed`` and ``inference_geo``."""
_LONGEST_NAME = 64


def tiers_of(*names: object) -> tuple[str, ...]:
    """The names of tiers of service, speeds and regions that are not the standard ones, in lower case."""
    lower = (name.lower() for name in names if isinstance(name, str) and len(name) <= _LONGEST_NAME)
    return tuple(name for name in lower if name not in STANDARD)


class Rates:
    """Nano-dollars per token of each kind."""

    __slots__ = (
        "audio_input",
        "audio_output",
        "cache_read",
        "cache_write",
        "cache_write_long",
        "image_input",
        "image_output",
        "input",
        "output",
        "priced",
    )

    def __init__(self, dollars: Mapping[str, float | None], factor: Decimal) -> None:
        """``dollars`` are prices per million tokens, by the fields of ``TokenPrices``."""
        rate = {name: _rate(price, factor) for name, price in dollars.items()}
        self.input = rate["input"]
        self.output = rate["output"]
        self.cache_read = self.input if rate["cache_read"] is None else rate["cache_read"]
        self.cache_write = rate["cache_write"]
        self.cache_write_long = (
            rate["cache_write"] if rate["cache_write_long"] is None else rate["cache_write_long"]
        )
        self.audio_input = rate["audio_input"]
        self.audio_output = rate["audio_output"]
        self.image_input = rate["image_input"]
        self.image_output = rate["image_output"]
        self.priced = any(known is not None for known in rate.values())


class RateCard:
    """The rates of one row. ``long_above`` is the prompt length in tokens beyond which ``long`` holds.

    ``plain`` are the standard rates of input and output, if they are whole numbers.
    """

    __slots__ = ("_compiled", "_long", "_short", "factors", "long", "long_above", "plain", "standard")

    def __init__(
        self,
        short: Mapping[str, float | None],
        long: Mapping[str, float | None] | None,
        long_above: int | None,
        factors: Mapping[str, float],
    ) -> None:
        self._short = short
        self._long = short if long is None else long
        self.factors = factors
        self.long_above = float("inf") if long_above is None else long_above
        self.standard = Rates(short, Decimal(1))
        self.long = self.standard if long is None else Rates(self._long, Decimal(1))
        given, said = self.standard.input, self.standard.output
        self.plain = (given, said) if isinstance(given, int) and isinstance(said, int) else None
        self._compiled: dict[tuple[bool, tuple[str, ...]], Rates] = {}

    def of(self, tiers: tuple[str, ...], prompt: int) -> tuple[Rates, tuple[str, ...]]:
        """The rates for tiers of service and a prompt's tokens, and the tiers whose price is unknown."""
        known = tuple(tier for tier in tiers if tier in self.factors)
        unknown = tuple(tier for tier in tiers if tier not in self.factors and tier not in RESOLUTIONS)
        is_long = prompt > self.long_above
        if not known:
            return (self.long if is_long else self.standard), unknown
        rates = self._compiled.get((is_long, known))
        if rates is None:
            rates = Rates(self._long if is_long else self._short, self._factor(known))
            self._compiled[is_long, known] = rates
        return rates, unknown

    def dearest(self, tiers: tuple[str, ...], *, sized: bool = False) -> float:
        """The factor of a request for these tiers; at least 1, because the provider may serve it as usual.

        ``sized``: the tiers are sizes of videos, which are made as they are asked for.
        """
        return max(0.0 if sized else 1.0, float(self.factor(tiers))) if tiers else 1.0

    def factor(self, tiers: tuple[str, ...]) -> Decimal:
        """The factor of the tiers that the row lists."""
        return self._factor(tuple(tier for tier in tiers if tier in self.factors))

    def undiscounted(self, tiers: tuple[str, ...]) -> tuple[str, ...]:
        """These tiers without those that cost less than the listed price."""
        return tuple(tier for tier in tiers if self.factors.get(tier, 1.0) >= 1.0)

    def _factor(self, tiers: tuple[str, ...]) -> Decimal:
        factor = Decimal(1)
        for tier in tiers:
            factor *= Decimal(str(self.factors[tier]))
        return factor


def _rate(price: float | None, factor: Decimal) -> Rate:
    if price is None:
        return None
    exact = Decimal(str(price)) * NANO_PER_MICRO * factor
    return int(exact) if exact == int(exact) else exact
