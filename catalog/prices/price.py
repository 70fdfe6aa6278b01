"""The prices of a model, in US dollars."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, NamedTuple, Self

from pydantic import ConfigDict, Field

from catalog.prices.rates import RateCard
from catalog.validation.section import Section

_MODEL = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


BATCH, HALF = "batch", 0.5
"""The tier of a provider's batch API, and its multiplier where a row has none."""


PICTURE_TOKENS = 6_240
"""Tokens assumed of a drawn picture: one of 1024 by 1536 pixels in high quality (OpenAI's image guide)."""
_SIDE = re.compile(r"(\d{1,2}(?:\.\d)?)K")


class TokenPrices(Section):
    """Dollars per million tokens; ``None`` means unknown, never free.

    Cached tokens and those of pictures in a prompt cost as much as ``input`` where they have no price of their
    own; so do tokens written to a cache for long as those written for a short time.
    """

    model_config = _MODEL
    input: float | None = Field(default=None, ge=0, description="tokens of the prompt")
    output: float | None = Field(default=None, ge=0, description="tokens of the answer, reasoning included")
    cache_read: float | None = Field(default=None, ge=0, description="tokens of the prompt that came from a cache")
    cache_write: float | None = Field(
        default=None, ge=0, description="tokens written to a cache for minutes: 5 at Anthropic, 30 at OpenAI"
    )
    cache_write_long: float | None = Field(
        default=None, ge=0, description="tokens written to a cache for hours: 1 at Anthropic, 12 at OpenAI"
    )
    audio_input: float | None = Field(default=None, ge=0, description="tokens of sound in the prompt")
    audio_output: float | None = Field(default=None, ge=0, description="tokens of spoken answers")
    image_input: float | None = Field(default=None, ge=0, description="tokens of pictures in the prompt")
    image_output: float | None = Field(default=None, ge=0, description="tokens of drawn pictures")


class LongPrices(TokenPrices):
    """The prices of every token of a request whose prompt has more than ``above`` tokens.

    A price that is not named is the usual one, raised as that of ``input`` is, or of ``output`` for the answer's.
    """

    above: int = Field(gt=0, description="tokens of the prompt above which these prices hold")


class LaterPrices(TokenPrices):
    """The prices of tokens that change on a day (from midnight, UTC); those that are not named stay."""

    on: date = Field(description="the day")


class Price(TokenPrices):
    """Prices in US dollars, of tokens by the million. A price that is left out is unknown, never free.

    ``tiers`` multiplies the prices of tokens by what a request or an answer says of its service: ``service_tier``
    (flex, priority, batch), ``speed`` (fast), ``inference_geo`` (us); of a video the size (360p, 1080p, 4k).
    Units (an image, a second of video, a minute of audio, a character) count where the tokens of the answer have
    no price, or are not reported. ``picture_tokens`` are the tokens of a drawn picture by its size (2K: a square
    of 2,048 pixels a side) or by the ``quality`` of its request.
    """

    image: float | None = Field(default=None, ge=0, description="per image")
    video: float | None = Field(default=None, ge=0, description="per second of video")
    minute: float | None = Field(default=None, ge=0, description="per minute of audio")
    character: float | None = Field(default=None, ge=0, description="per million characters spoken")
    search: float | None = Field(default=None, ge=0, description="per thousand rerank searches")
    web_search: float | None = Field(default=None, ge=0, description="per thousand web searches of an answer")
    container: float | None = Field(default=None, ge=0, description="per container that ran an answer's code")
    tiers: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={}, description="multipliers, by service tier, speed or region"
    )
    picture_tokens: dict[str, Annotated[int, Field(gt=0)]] = Field(
        default={}, description="tokens of a drawn picture, by size (1K) or quality (low)"
    )
    long: LongPrices | None = Field(default=None, description="prices of long prompts")
    later: LaterPrices | None = Field(default=None, description="announced prices")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, which compiles its own rates."""
        copied = super().model_copy(update=update, deep=deep)
        for compiled in ("rates", "if_long", "free", "changes", "next"):
            copied.__dict__.pop(compiled, None)
        return copied

    def at(self, wall: float) -> Price:
        """The prices at a wall-clock time in seconds."""
        return self if self.later is None or wall < self.changes else self.next

    def in_batches(self) -> Price:
        """The prices of the provider's batch API: ``tiers.batch`` times the usual ones of tokens and pictures.

        Without such a tier it is half of them, as at OpenAI, Anthropic, Google and Groq.
        """
        factor = Decimal(str(self.tiers.get(BATCH, HALF)))
        fields = (*TOKEN_PRICES, "image")
        update: dict[str, Any] = _times(self, fields, factor)
        update["tiers"] = {**self.tiers, BATCH: 1.0}
        for name in ("long", "later"):
            if (prices := getattr(self, name)) is not None:
                update[name] = prices.model_copy(update=_times(prices, TOKEN_PRICES, factor))
        return self.model_copy(update=update)

    def tokens_of_picture(self, size: str = "", quality: str = "") -> int:
        """The tokens assumed of a picture of a ``size`` (``1024x1024``, ``auto``) and ``quality``.

        Without a size it is that of the smallest listed, as at Google; else that of the nearest. Without a known
        quality it is the most that is listed. Nothing listed means :data:`PICTURE_TOKENS`.
        """
        table = self.picture_tokens
        if not table or quality in table:
            return table.get(quality, PICTURE_TOKENS)
        sides = {float(found[1]) * 1024: count for key, count in table.items() if (found := _SIDE.fullmatch(key))}
        width, _, height = size.partition("x")
        if not sides:
            return max(table.values())
        if not (width.isdecimal() and height.isdecimal()):
            return sides[min(sides)]
        side = max(1.0, math.sqrt(int(width) * int(height)))
        return sides[min(sides, key=lambda known: abs(math.log(side / known)))]

    @cached_property
    def changes(self) -> float:
        """The wall-clock time in seconds at which the prices change; infinite if no change is announced."""
        return math.inf if self.later is None else datetime.combine(self.later.on, time(), UTC).timestamp()

    @cached_property
    def next(self) -> Price:
        """The prices after their change."""
        named = {} if self.later is None else self.later.model_dump(exclude={"on"}, exclude_none=True)
        return self.model_copy(update={**named, "later": None})

    @cached_property
    def rates(self) -> RateCard:
        """The rates of tokens, compiled once."""
        return RateCard(
            {name: getattr(self, name) for name in TOKEN_PRICES},
            None if self.long is None else self.if_long,
            None if self.long is None else self.long.above,
            self.tiers,
        )

    @cached_property
    def if_long(self) -> dict[str, float | None]:
        """The prices of tokens of a long request; see :class:`LongPrices`."""
        return {name: self._if_long(name) for name in TOKEN_PRICES}

    def _if_long(self, name: str) -> float | None:
        usual: float | None = getattr(self, name)
        named: float | None = usual if self.long is None else getattr(self.long, name)
        if named is not None or usual is None:
            return named
        main = "output" if name.endswith("output") else "input"
        before, raised = getattr(self, main), getattr(self.long, main)
        if raised is None or not before:
            return usual
        return float(Decimal(str(usual)) * Decimal(str(raised)) / Decimal(str(before)))

    @cached_property
    def free(self) -> bool:
        """Whether every known price is zero, so that a cost is known without the usage."""
        known = [rate for name in PRICES if (rate := getattr(self, name)) is not None]
        return bool(known) and not any(known)


TOKEN_PRICES = tuple(TokenPrices.model_fields)
"""The fields of a price per million tokens."""
PRICES = tuple(name for name in Price.model_fields if name not in ("tiers", "picture_tokens", "long", "later"))
"""The fields of a price that are numbers."""


class Unit(NamedTuple):
    """The pricing unit of a capability: a field of :class:`Price`, and the units that one price covers."""

    field: str
    per: int


FREE = Price(**dict.fromkeys(PRICES, 0))
"""The price of a model that runs on this machine."""


def _times(prices: TokenPrices, names: Iterable[str], factor: Decimal) -> dict[str, float]:
    known = ((name, getattr(prices, name)) for name in names)
    return {name: float(Decimal(str(price)) * factor) for name, price in known if price is not None}
