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
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cached_property, lru_cache, partial
from itertools import count
from secrets import token_hex
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from catalog.errors import BudgetExceeded
from catalog.model import Capability, Price
from routing.clock import Clock, SteadyWall
from routing.facts import Facts
from routing.outcomes import Usage
from routing.state import NANO, Charge, Counter, Hold, State, UsageRow, is_gone, this_process
from routing.windows import Window, day_of, window_at

_UNIT_PRICE: dict[Capability, tuple[str, int]] = {
    Capability.IMAGE: ("image", 1),
    Capability.TRANSCRIBE: ("minute", 1),
    Capability.TRANSLATE: ("minute", 1),
    Capability.SPEAK: ("character", 1_000_000),
    Capability.RERANK: ("search", 1_000),
}
_UNITS = (("image", 1), ("minute", 1), ("character", 1_000_000), ("search", 1_000))
_PRICES = ("input", "output", "cache_read", "cache_write", "image", "minute", "character", "search")


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
    """Money set aside for one call. Leaving the block without settling gives it back: no call was made."""

    def __init__(self, amount: float | None, settle: Callable[[int | None, Usage], None]) -> None:
        self.amount = amount
        self.settled = False
        self._settle = settle

    def settle(self, actual: float | None, usage: Usage) -> None:
        """Say what the call cost, once; ``None`` if that is unknown: then the caps keep what was set aside."""
        if not self.settled:
            self.settled = True
            self._settle(None if actual is None else nano(actual), usage)


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
        self._wall = SteadyWall(clock)
        self._owner = owner or this_process()
        self._holds = (f"{self._owner}/{token_hex(4)}/{number}" for number in count(1))
        self._totals: dict[str, int] = {}
        self._since: dict[str, int] | None = None
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

    @asynccontextmanager
    async def reserve(
        self, *, key: str, model: str, endpoint: str, amount: float | None
    ) -> AsyncIterator[Reservation]:
        """Set ``amount`` dollars aside until the block ends.

        Raises BudgetExceeded, with ``retry_after`` when waiting for the window's end would help.
        """
        now = self._wall()
        counters = self._counters(key, now)
        held = 0 if amount is None else nano(amount)
        self._check_request(key, amount, capped=bool(counters))
        self._check_windows(counters, held, now)
        usage = UsageRow(day=day_of(now), model=model, endpoint=endpoint, key=key)
        hold: Hold | None = None
        waiting: list[asyncio.Future[None]] = []
        if counters and held:
            hold = Hold(
                id=next(self._holds),
                owner=self._owner,
                at=now,
                day=usage.day,
                amount=held,
                counters=counters,
                key=key,
                model=model,
                endpoint=endpoint,
            )
            await self._take(hold, now)

        def settle(actual: int | None, used: Usage) -> None:
            waiting.append(self._charge(usage, counters, hold, held, actual, used))

        reservation = Reservation(amount, settle)
        try:
            yield reservation
        finally:
            if not reservation.settled and hold is not None:
                waiting.append(self._release(usage, hold))
            if waiting and hold is not None:
                await asyncio.wait(waiting, timeout=self._settings.patience)

    def headroom(self, key: str) -> float | None:
        """Dollars that the key may still spend on its next call; ``None`` without a cap."""
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
        await self._store.recover(partial(is_gone, now=self._wall()))
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
        """The rows for :mod:`routing.usage_report`."""
        return await self._store.usage(first_day, last_day)

    def _scopes(self, key: str) -> tuple[tuple[str, Caps], ...]:
        settings = self._settings
        own = self._key_caps(key) if self._key_caps is not None else None
        configured = settings.keys.get(key, settings.per_key)
        if own is not None:
            configured = Caps(**{**configured.model_dump(), **own.model_dump(exclude_none=True)})
        return ("all", settings.caps), (f"key/{key}", configured)

    def _counters(self, key: str, now: float) -> tuple[Counter, ...]:
        found = []
        for scope, caps in self._scopes(key):
            for window, cap in caps.windows:
                span = window_at(window, now)
                found.append(Counter(f"spend/{scope}/{window}/{span.name}", nano(cap), span.keep_until))
        return tuple(found)

    def _check_request(self, key: str, amount: float | None, *, capped: bool) -> None:
        limits = [caps.request for _, caps in self._scopes(key) if caps.request is not None]
        if amount is None:
            if (limits or capped) and self._settings.unknown_price == "refuse":
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

    async def _take(self, hold: Hold, now: float) -> None:
        """Count in memory at once, so that nobody else can have the same money, then ask the store."""
        self._add(hold.counters, hold.amount)
        try:
            refused = await self._store.hold(hold, self._settings.patience)
        except BaseException:
            self._release(UsageRow(hold.day, hold.model, hold.endpoint, hold.key), hold)
            raise
        if refused is not None:
            self._add(hold.counters, -hold.amount)
            raise _exceeded(refused, now)

    def _charge(
        self,
        usage: UsageRow,
        counters: tuple[Counter, ...],
        hold: Hold | None,
        held: int,
        actual: int | None,
        used: Usage,
    ) -> asyncio.Future[None]:
        amount = held if actual is None else actual
        self._add(counters, amount - (hold.amount if hold else 0))
        row = UsageRow(
            day=usage.day,
            model=usage.model,
            endpoint=usage.endpoint,
            key=usage.key,
            calls=1,
            unknown=int(actual is None),
            input=used.input,
            output=used.output,
            cached=used.cached,
            reasoning=used.reasoning,
            units=used.units,
            cost=actual or 0,
            estimated=held if actual is None else 0,
        )
        return self._store.charge(Charge(hold.id if hold else None, counters, amount, row))

    def _release(self, usage: UsageRow, hold: Hold) -> asyncio.Future[None]:
        self._add(hold.counters, -hold.amount)
        return self._store.charge(Charge(hold.id, hold.counters, 0, usage))

    def _add(self, counters: tuple[Counter, ...], change: int) -> None:
        if change == 0:
            return
        for counter in counters:
            self._totals[counter.name] = self._totals.get(counter.name, 0) + change
            if self._since is not None:
                self._since[counter.name] = self._since.get(counter.name, 0) + change


def nano(dollars: float) -> int:
    """Whole nano-dollars, of the number as it is written (0.1 is a tenth, not the float nearest to it)."""
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
    return None if exact is None else int(exact.to_integral_value(ROUND_HALF_EVEN))


def is_free(price: Price) -> bool:
    """Whether whatever has a price costs nothing, so that a cost is known without knowing the usage."""
    known = [rate for name in _PRICES if (rate := getattr(price, name)) is not None]
    return bool(known) and not any(known)


@lru_cache(maxsize=1024)
def _exact(rate: float) -> Decimal:
    """The number as it is written."""
    return Decimal(str(rate))


def _tokens(price: Price, usage: Usage) -> Decimal | None:
    if price.input is None and price.output is None:
        return None
    fresh = max(0, usage.input - usage.cached - usage.cache_write)
    read = price.cache_read if price.cache_read is not None else price.input
    total = Decimal(0)
    for used, rate in (
        (fresh, price.input),
        (usage.cached, read),
        (usage.cache_write, price.cache_write),
        (usage.output, price.output),
    ):
        if used and rate is None:
            return None
        if used and rate is not None:
            total += used * _exact(rate) * (NANO // 1_000_000)
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
