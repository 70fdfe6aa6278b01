"""Money: what a call costs, what may still be spent, and what was.

Prices are dollars; a price that is missing is unknown, and so is every cost that would need it. All sums
are whole nano-dollars, so they neither drift nor depend on the order of addition.

A call under a cap is *reserved* before it is made and *settled* after it, and both are exact under
concurrency: the reservation is decided at once against the totals in memory, then confirmed by the store in
one transaction, so several gateways on one store share their caps. Both are in the store before the call
is made and before its answer ends, respectively: they survive ``kill -9`` (SQLite's WAL is in the
operating system's hands by then; a power cut may lose the last moments). That costs some tenths of a
millisecond, for capped calls only; without a cap, and for what is free, nothing waits. A store that does not
answer (a locked or full disk) holds nobody up for longer than ``patience``: memory decides, and what was
settled waits for the store to come back.

Calendar windows are in UTC and never begin twice, also when the clock is set back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cached_property, lru_cache, partial
from itertools import count
from secrets import token_hex
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from catalog.errors import BudgetExceeded
from catalog.model import Capability, Price
from routing.accounts.windows import Window, day_of, window_at
from routing.clock import Clock, SteadyWallClock
from routing.facts import Facts
from routing.outcomes import Usage
from routing.state.protocol import NANO, Charge, Counter, Hold, State, UsageRow, owner_is_gone, process_name

_UNIT_PRICE: dict[Capability, tuple[str, int]] = {
    Capability.IMAGE: ("image", 1),
    Capability.TRANSCRIBE: ("minute", 1),
    Capability.TRANSLATE: ("minute", 1),
    Capability.SPEAK: ("character", 1_000_000),
    Capability.RERANK: ("search", 1_000),
}
_UNITS = (("image", 1), ("minute", 1), ("character", 1_000_000), ("search", 1_000))
_PRICES = ("input", "output", "cache_read", "cache_write", "image", "minute", "character", "search")
_KEPT_SCOPES = 4096
_CERTAIN = 2.0**50
"""Nano-dollars, about a million dollars, below which a float is off by much less than a quarter of one."""


class Caps(BaseModel):
    """The most that may be spent, in US dollars; ``None`` is without a limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    request: float | None = Field(default=None, ge=0)
    minute: float | None = Field(default=None, ge=0)
    hour: float | None = Field(default=None, ge=0)
    day: float | None = Field(default=None, ge=0)
    month: float | None = Field(default=None, ge=0)
    total: float | None = Field(default=None, ge=0)

    @cached_property
    def windows(self) -> tuple[tuple[Window, float], ...]:
        """The windows that have a cap."""
        every = ((window, getattr(self, window.value)) for window in Window)
        return tuple((window, cap) for window, cap in every if cap is not None)

    @property
    def limiting(self) -> bool:
        """Whether there is any cap at all."""
        return self.request is not None or bool(self.windows)


class SpendSettings(BaseModel):
    """Caps of the whole gateway, of every key by default, and of single keys by id."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    caps: Caps = Caps()
    per_key: Caps = Caps()
    keys: dict[str, Caps] = {}
    unknown_price: Literal["refuse", "allow"] = Field(
        default="refuse", description="what a cap says to a call whose price is unknown"
    )
    assumed_output_tokens: int = Field(
        default=1024, ge=1, description="what an answer without a bound is taken to be, when money is set aside"
    )
    patience: float = Field(default=0.25, gt=0, description="seconds that a capped call waits for a stuck store")


@dataclass(frozen=True, slots=True)
class Spent:
    """How far a cap is used, dollars. ``scope`` is ``all`` or ``key/ID``."""

    scope: str
    window: Window
    cap: float
    spent: float
    resets_in: float | None


class Reservation:
    """Money set aside for one call while the block lasts. Leaving unsettled gives it back: no call was made.

    Entering raises BudgetExceeded, with ``retry_after`` when waiting for the window's end would help.
    """

    __slots__ = (
        "_books",
        "_counters",
        "_hold",
        "_waiting",
        "amount",
        "day",
        "endpoint",
        "key",
        "model",
        "settled",
    )

    def __init__(self, books: Spend, key: str, model: str, endpoint: str, amount: float | None) -> None:
        self._books = books
        self.key = key
        self.model = model
        self.endpoint = endpoint
        self.amount = amount
        self.settled = False
        self.day = ""
        self._counters: tuple[Counter, ...] = ()
        self._hold: Hold | None = None
        self._waiting: asyncio.Future[None] | None = None

    @property
    def waits(self) -> bool:
        """Whether leaving waits for the store; without a cap nothing does."""
        return self._hold is not None

    async def __aenter__(self) -> Self:
        now = self._books.now()
        self.day = day_of(now)
        self._counters, held = self._books.check(self, now)
        if self._counters and held:
            self._hold = await self._books.take(self, self._counters, held, now)
        return self

    def settle(self, actual: float | None, usage: Usage) -> None:
        """Say what the call cost, once; ``None`` if that is unknown: then the caps keep what was set aside."""
        if not self.settled:
            self.settled = True
            exact = None if actual is None else nano(actual)
            self._waiting = self._books.charge(self, self._counters, self._hold, exact, usage)

    async def __aexit__(self, *exception: object) -> None:
        if self._hold is None:
            return
        if not self.settled:
            self._waiting = self._books.release(self._hold)
        if self._waiting is not None:
            await asyncio.wait((self._waiting,), timeout=self._books.patience)


class Spend:
    """The books of a gateway."""

    def __init__(
        self,
        store: State,
        settings: SpendSettings,
        clock: Clock,
        *,
        key_caps: Callable[[str], Caps | None] | None = None,
        owner: str | None = None,
    ) -> None:
        """``key_caps`` gives the caps that a virtual key was created with, by the key's id."""
        self._store = store
        self._settings = settings
        self._key_caps = key_caps
        self._wall = SteadyWallClock(clock)
        self._owner = owner or process_name()
        self._holds = (f"{self._owner}/{token_hex(4)}/{number}" for number in count(1))
        self._totals: dict[str, int] = {}
        self._since: dict[str, int] | None = None
        self._known_scopes: dict[str, tuple[Caps | None, tuple[tuple[str, Caps], ...]]] = {}
        self._generation = store.generation

    # ---- prices

    def cost(self, price: Price, usage: Usage, capability: Capability | None = None) -> float | None:
        """Dollars for what was used; ``None`` when a price or the usage is unknown."""
        exact = cost_nano(price, usage, capability)
        return None if exact is None else exact / NANO

    def estimate(self, price: Price, facts: Facts) -> float | None:
        """Dollars to set aside for a request, taking the answer to be as long as it may be."""
        generates = facts.capability in (Capability.CHAT, Capability.COMPLETION)
        assumed = self._settings.assumed_output_tokens if generates else 0
        usage = Usage(
            input=facts.prompt_tokens,
            output=assumed if facts.output_tokens is None else facts.output_tokens,
            units=facts.units if facts.capability in _UNIT_PRICE else 0.0,
        )
        return self.cost(price, usage, facts.capability)

    # ---- caps

    @property
    def patience(self) -> float:
        """Seconds that a capped call waits for a stuck store."""
        return self._settings.patience

    def reserve(self, *, key: str, model: str, endpoint: str, amount: float | None) -> Reservation:
        """To be entered: sets ``amount`` dollars aside until the block ends."""
        return Reservation(self, key, model, endpoint, amount)

    def headroom(self, key: str) -> float | None:
        """Dollars that the key may still spend on its next call; ``None`` without a cap."""
        if not self._scopes(key):
            return None
        at = self._wall()
        room = [
            counter.limit - self._totals.get(counter.name, 0)
            for counter in self._counters(key, at)
            if counter.limit is not None
        ]
        room.extend(nano(caps.request) for _, caps in self._scopes(key) if caps.request is not None)
        return max(0, min(room)) / NANO if room else None

    def standing(self, key: str) -> tuple[Spent, ...]:
        """How far each cap that applies to a key is used."""
        now = self._wall()
        rows = []
        for scope, caps in self._scopes(key):
            for window, cap in caps.windows:
                span = window_at(window, now)
                spent = self._totals.get(f"spend/{scope}/{window}/{span.name}", 0) / NANO
                left = None if span.end is None else span.end - now
                rows.append(Spent(scope=scope, window=window, cap=cap, spent=spent, resets_in=left))
        return tuple(rows)

    # ---- the store

    async def start(self) -> None:
        """Learn what was spent before, and settle what a process that died had set aside."""
        await self._store.recover(partial(owner_is_gone, now=self._wall()))
        await self.refresh()

    async def refresh(self) -> None:
        """Bring the totals in memory up to the store's, to which other gateways add as well."""
        if self._store.generation != self._generation:
            self._generation = self._store.generation
            for name, total in self._totals.items():
                self._store.count((Counter(name),), total)
        since = self._since = {}
        try:
            totals = await self._store.counts("spend/")
        finally:
            self._since = None
        for name, change in since.items():
            totals[name] = totals.get(name, 0) + change
        self._totals = totals

    async def usage(self, first_day: str, last_day: str) -> list[UsageRow]:
        """The rows for :mod:`routing.accounts.usage_report`."""
        return await self._store.usage(first_day, last_day)

    def _scopes(self, key: str) -> tuple[tuple[str, Caps], ...]:
        """What applies to a key, by scope; scopes without a cap are left out."""
        own = self._key_caps(key) if self._key_caps is not None else None
        known = self._known_scopes.get(key)
        if known is not None and known[0] is own:
            return known[1]
        configured = self._settings.keys.get(key, self._settings.per_key)
        if own is not None:
            configured = Caps(**{**configured.model_dump(), **own.model_dump(exclude_none=True)})
        every = (("all", self._settings.caps), (f"key/{key}", configured))
        scopes = tuple((scope, caps) for scope, caps in every if caps.limiting)
        if len(self._known_scopes) >= _KEPT_SCOPES:
            self._known_scopes.clear()
        self._known_scopes[key] = own, scopes
        return scopes

    def _counters(self, key: str, now: float) -> tuple[Counter, ...]:
        found = []
        for scope, caps in self._scopes(key):
            for window, cap in caps.windows:
                span = window_at(window, now)
                found.append(Counter(f"spend/{scope}/{window}/{span.name}", nano(cap), span.keep_until))
        return tuple(found)

    # ---- one call, for its reservation

    def now(self) -> float:
        """Wall time that never goes back: a day must not begin again because somebody set the clock."""
        return self._wall()

    def check(self, call: Reservation, now: float) -> tuple[tuple[Counter, ...], int]:
        """The counters of a call's caps, and the nano-dollars to hold under them. Raises BudgetExceeded."""
        scopes = self._scopes(call.key)
        if not scopes:
            return (), 0
        held = 0 if call.amount is None else nano(call.amount)
        counters = self._counters(call.key, now)
        self._check_request(scopes, call.amount)
        self._check_windows(counters, held, now)
        return counters, held

    async def take(self, call: Reservation, counters: tuple[Counter, ...], held: int, now: float) -> Hold:
        """Count in memory at once, so that nobody else can have the same money, then ask the store."""
        hold = Hold(
            id=next(self._holds),
            owner=self._owner,
            at=now,
            day=call.day,
            amount=held,
            counters=counters,
            key=call.key,
            model=call.model,
            endpoint=call.endpoint,
        )
        self._add(counters, held)
        try:
            refused = await self._store.hold(hold, self._settings.patience)
        except BaseException:
            self.release(hold)
            raise
        if refused is not None:
            self._add(counters, -held)
            raise _exceeded(refused, now)
        return hold

    def charge(
        self,
        call: Reservation,
        counters: tuple[Counter, ...],
        hold: Hold | None,
        actual: int | None,
        used: Usage,
    ) -> asyncio.Future[None]:
        """Book what a call came to: in memory at once; the future is done when it is in the store."""
        estimated = 0
        if actual is None:
            estimated = 0 if call.amount is None else nano(call.amount)
        amount = estimated if actual is None else actual
        self._add(counters, amount - (hold.amount if hold else 0))
        row = UsageRow(
            day=call.day,
            model=call.model,
            endpoint=call.endpoint,
            key=call.key,
            calls=1,
            unknown=int(actual is None),
            input=used.input,
            output=used.output,
            cached=used.cached,
            reasoning=used.reasoning,
            units=used.units,
            cost=actual or 0,
            estimated=estimated,
        )
        return self._store.charge(Charge(hold.id if hold else None, counters, amount, row))

    def release(self, hold: Hold) -> asyncio.Future[None]:
        """Give back what was held for a call that was not made."""
        self._add(hold.counters, -hold.amount)
        usage = UsageRow(hold.day, hold.model, hold.endpoint, hold.key)
        return self._store.charge(Charge(hold.id, hold.counters, 0, usage))

    def _check_request(self, scopes: tuple[tuple[str, Caps], ...], amount: float | None) -> None:
        limits = [caps.request for _, caps in scopes if caps.request is not None]
        if amount is None:
            if self._settings.unknown_price == "refuse":
                raise BudgetExceeded(
                    "The price of this model is unknown, and a spending cap applies. Give the model a price in "
                    "the catalogue, or set spend.unknown_price to 'allow'."
                )
            return
        if limits and nano(amount) > nano(min(limits)):
            raise BudgetExceeded(
                f"This request may cost {amount:.6f} dollars, more than the {min(limits):.6f} allowed for one "
                "request. Ask for fewer output tokens or a cheaper model."
            )

    def _check_windows(self, counters: tuple[Counter, ...], held: int, now: float) -> None:
        if held == 0:
            return
        for counter in counters:
            if counter.limit is not None and self._totals.get(counter.name, 0) + held > counter.limit:
                raise _exceeded(counter, now)

    def _add(self, counters: tuple[Counter, ...], change: int) -> None:
        if change == 0:
            return
        for counter in counters:
            self._totals[counter.name] = self._totals.get(counter.name, 0) + change
            if self._since is not None:
                self._since[counter.name] = self._since.get(counter.name, 0) + change


def nano(dollars: float) -> int:
    """Whole nano-dollars, of the number as it is written (0.1 is a tenth, not the float nearest to it)."""
    scaled = dollars * NANO
    if scaled < _CERTAIN and abs(scaled - (whole := round(scaled))) < 0.25:
        return whole  # nowhere near a half, at which the float's own error would matter
    return int((Decimal(str(dollars)) * NANO).to_integral_value(ROUND_HALF_EVEN))


def cost_nano(price: Price, usage: Usage, capability: Capability | None = None) -> int | None:
    """What was used, in nano-dollars; ``None`` when a price that it needs, or the usage, is unknown.

    ``usage.input`` contains ``cached`` and ``cache_write``, ``usage.output`` contains ``reasoning``. Cached
    tokens without a price of their own cost what fresh ones do, which is the most they can. What is not
    tokens is priced by the capability's unit; without a capability, by the one unit that has a price.
    """
    if not usage.known:
        return 0 if is_free(price) else None
    tokens = _tokens(price, usage)
    units = _units(price, usage, capability)
    exact = tokens if units is None else units + (tokens or 0)
    if exact is None or isinstance(exact, int):
        return exact
    return int(exact.to_integral_value(ROUND_HALF_EVEN))


def is_free(price: Price) -> bool:
    """Whether whatever has a price costs nothing, so that a cost is known without knowing the usage."""
    known = [rate for name in _PRICES if (rate := getattr(price, name)) is not None]
    return bool(known) and not any(known)


@lru_cache(maxsize=1024)
def _nano_per_token(rate: float) -> int | Decimal:
    """A price per million tokens, as written, in nano-dollars a token: nearly always a whole number."""
    exact = Decimal(str(rate)) * (NANO // 1_000_000)
    return int(exact) if exact == int(exact) else exact


def _tokens(price: Price, usage: Usage) -> int | Decimal | None:
    if price.input is None and price.output is None:
        return None
    total: int | Decimal = 0
    parts: tuple[tuple[int, float | None], ...] = ((usage.input, price.input),)
    if usage.cached or usage.cache_write:
        fresh = max(0, usage.input - usage.cached - usage.cache_write)
        read = price.cache_read if price.cache_read is not None else price.input
        parts = ((fresh, price.input), (usage.cached, read), (usage.cache_write, price.cache_write))
    for used, rate in (*parts, (usage.output, price.output)):
        if used and rate is None:
            return None
        if used and rate is not None:
            total += used * _nano_per_token(rate)
    return total


def _units(price: Price, usage: Usage, capability: Capability | None) -> Decimal | None:
    if not usage.units:
        return None
    named = _UNITS if capability is None else tuple(filter(None, [_UNIT_PRICE.get(capability)]))
    rates = {Decimal(str(rate)) / per for name, per in named if (rate := getattr(price, name)) is not None}
    if len(rates) != 1:
        return None
    return Decimal(str(usage.units)) * rates.pop() * NANO


def _exceeded(counter: Counter, now: float) -> BudgetExceeded:
    _, *scope, window, _ = counter.name.split("/")
    span = window_at(Window(window), now)
    whose = "this gateway" if scope == ["all"] else "this API key"
    cap = (counter.limit or 0) / NANO
    until = None if span.end is None else max(0.0, span.end - now)
    when = "" if until is None else f" The next {window} begins in {until:.0f} s."
    return BudgetExceeded(
        f"The {window} spending cap of {whose} ({cap:.2f} dollars) is used up.{when}", retry_after=until
    )
