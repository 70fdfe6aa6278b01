"""Caps of spending, as settings and as they stand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import AliasChoices, Field

from catalog.validation.section import Section
from routing.accounts.windows import Window


class Caps(Section):
    """Upper bounds of spending in US dollars, per request and window; one that is not set bounds nothing."""

    request: float | None = Field(
        default=None, ge=0, description="dollars of one request, all attempts together", examples=[0.25]
    )
    minute: float | None = Field(default=None, ge=0, description="dollars a minute", examples=[0.5])
    hour: float | None = Field(default=None, ge=0, description="dollars an hour", examples=[2.0])
    day: float | None = Field(default=None, ge=0, description="dollars a day (UTC)", examples=[5.0])
    month: float | None = Field(default=None, ge=0, description="dollars a calendar month (UTC)", examples=[100.0])
    total: float | None = Field(default=None, ge=0, description="dollars in all", examples=[500.0])

    @cached_property
    def windows(self) -> tuple[tuple[Window, float], ...]:
        """The windows that have a cap, with it."""
        caps = ((window, getattr(self, window.value)) for window in Window)
        return tuple((window, cap) for window, cap in caps if cap is not None)

    @property
    def limiting(self) -> bool:
        """Whether there is any cap."""
        return self.request is not None or bool(self.windows)


class SpendSettings(Section):
    """Caps of the whole gateway, the default of every key, and those of single keys by id."""

    caps: Caps = Caps()
    per_key: Caps = Caps()
    keys: dict[str, Caps] = Field(
        default={},
        description="caps of single keys by their id",
        examples=[{"key-1a2b3c4d5e6f7a8b": {"day": 1.0}}],
    )
    unknown_price: Literal["refuse", "allow"] = Field(
        default="refuse", description="what a cap does with a call whose price is unknown"
    )
    assumed_output_tokens: int = Field(
        default=1024, ge=1, description="tokens of an answer without a bound, for which money is reserved"
    )
    store_timeout: float = Field(
        default=0.25,
        gt=0,
        validation_alias=AliasChoices("store_timeout", "patience"),
        description="seconds that a capped call waits for a stuck store",
    )

    @property
    def windows(self) -> frozenset[Window]:
        """The windows of all caps."""
        everyone = (self.caps, self.per_key, *self.keys.values())
        return frozenset(window for caps in everyone for window, _ in caps.windows)


@dataclass(frozen=True, slots=True)
class CapUsage:
    """Use of one cap, in dollars. ``scope`` is ``all`` or ``key/ID``."""

    scope: str
    window: Window
    cap: float
    spent: float
