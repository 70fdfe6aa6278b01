"""Spending caps: money is reserved before a call and settled after it.

Both are exact under concurrency. A reservation is checked against the totals in memory, then confirmed by the
store in one transaction, so gateways on one store share their caps. It is in the store before the call is made,
and the settlement before the answer ends, so both survive ``kill -9``; a power cut may lose the last moments. That
costs some tenths of a millisecond, for capped calls only: without a cap, and for free models, no call waits for
the store. If the store does not answer (a locked or full disk) within ``store_timeout``, the totals in memory
decide, and the settlement is written when the store is back.

Calendar windows are in UTC and never begin twice, even if the clock is set back.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from secrets import token_hex
from typing import Self

from catalog.errors import PriceUnknown
from catalog.model import UNITS, Capability, Price
from routing.accounts.caps import Caps, CapUsage, SpendSettings
from routing.accounts.catching_up import catch_up
from routing.accounts.costs import cost_nano, cost_of, dearest_prompt, has_sound, searches_of, to_nano
from routing.accounts.refusals import Left, check_request, ends_in, exceeded
from routing.accounts.windows import day_of, window_at
from routing.clock import Clock, SteadyWallClock, log_step
from routing.facts import Facts
from routing.outcomes import Usage, UsageDetails
from routing.state.protocol import (
    LASTING,
    NANO,
    Charge,
    Counter,
    Hold,
    State,
    UsageRow,
    owner_is_gone,
    process_name,
)

_MAX_CACHED_SCOPES = 4096
_READING = frozenset({Capability.EMBED, Capability.RERANK, Capability.CLASSIFY})
"""Capabilities whose cost is that of the prompt, so that no assumed answer covers the error of its estimate."""


class Reservation:
    """Context manager that reserves money for one call. Leaving it unsettled releases the money: no call was made.

    Entering raises BudgetExceeded, with ``retry_after`` if the call may succeed once the window has ended.
    """

    __slots__ = (
        "_counters",
        "_hold",
        "_spend",
        "_written",
        "amount",
        "before",
        "calls",
        "charged",
        "day",
        "endpoint",
        "key",
        "model",
        "name",
        "once",
        "settled",
    )

    def __init__(
        self,
        spend: Spend,
        key: str,
        model: str,
        endpoint: str,
        amount: float | None,
        before: float = 0.0,
        calls: int = 1,
    ) -> None:
        """``before`` is what earlier attempts at the same request cost, in dollars; ``calls`` share the amount."""
        self._spend = spend
        self.key = key
        self.model = model
        self.endpoint = endpoint
        self.amount = amount
        self.before = before
        self.calls = calls
        self.charged = 0
        """Nano-dollars that the call cost, or was estimated to; 0 before it is settled."""
        self.settled = False
        self.name: str | None = None
        """The name of a hold that outlives its process, and with it the money: see :meth:`Spend.forget`."""
        self.once: str | None = None
        """The name of a call whose cost must be charged once, though it may be settled again after a crash."""
        self.day = ""
        self._counters: tuple[Counter, ...] = ()
        self._hold: Hold | None = None
        self._written: asyncio.Future[None] | None = None

    @property
    def waits(self) -> bool:
        """Whether leaving waits for the store; not without a cap."""
        return self._hold is not None

    async def __aenter__(self) -> Self:
        now = self._spend.now()
        self.day = day_of(now)
        self._counters, held = self._spend.check(self, now)
        if self._counters and held:
            self._hold = await self._spend.take(self, self._counters, held, now)
        return self

    def settle(
        self, actual: float | None, usage: Usage, *, estimate: float | None = None, partly: bool = False
    ) -> None:
        """Settle with the call's cost, once. If that is unknown (``None``), the caps count ``estimate`` dollars.

        Without an estimate they count the reserved amount. ``partly``: ``actual`` is the known part alone, and the
        caps count it or the estimate, whichever is more.
        """
        if not self.settled:
            self.settled = True
            known = 0 if actual is None else to_nano(actual)
            unknown = partly or actual is None
            guess = self.amount if estimate is None else estimate
            rest = max(0, to_nano(guess) - known) if unknown and guess is not None else 0
            self.charged = known + rest
            self._written = self._spend.charge(
                self, self._counters, self._hold, known, rest, usage, unknown=unknown
            )

    async def __aexit__(self, *exception: object) -> None:
        if self._hold is None:
            return
        if not self.settled:
            self._written = self._spend.release(self._hold)
        if self._written is not None:
            await asyncio.wait((self._written,), timeout=self._spend.store_timeout)


class Spend:
    """Totals and reservations of a gateway."""

    def __init__(
        self,
        store: State,
        settings: SpendSettings,
        clock: Clock,
        *,
        key_caps: Callable[[str], Caps | None] | None = None,
        owner: str | None = None,
    ) -> None:
        """``key_caps`` returns the caps that a virtual key was created with, by the key's id."""
        self._store = store
        self._settings = settings
        self._key_caps = key_caps
        self._wall = SteadyWallClock(clock, log_step)
        self._owner = owner or process_name()
        self._holds = (f"{self._owner}/{token_hex(4)}/{number}" for number in count(1))
        self._totals: dict[str, int] = {}
        self._changes_since_read: dict[str, int] | None = None
        self._known_scopes: dict[str, tuple[Caps | None, tuple[tuple[str, Caps], ...]]] = {}
        self._generation = store.generation
        self._reconfigured = False

    def configure(self, settings: SpendSettings) -> None:
        """Use other caps from the next call on; :meth:`catch_up` counts what was spent before."""
        self._settings = settings
        self._known_scopes.clear()
        self._reconfigured = True

    # ---- prices

    def cost(
        self, price: Price, usage: Usage, capability: Capability | None = None
    ) -> tuple[float | None, tuple[str, ...]]:
        """The known dollars and the unknown parts of a call; see :func:`routing.accounts.costs.cost_of`."""
        nano, unknown = cost_of(self.now_of(price), usage, capability)
        return None if nano is None else nano / NANO, unknown

    def as_text(self, price: Price, usage: Usage) -> float | None:
        """Dollars if all tokens were text of the standard tier, which caps count at least for unknown parts."""
        nano = cost_nano(self.now_of(price), Usage(usage.input, usage.output)) if usage.known else None
        return None if nano is None else nano / NANO

    def now_of(self, price: Price) -> Price:
        """The prices of a row as they are now."""
        return price if price.later is None else price.at(self._wall())

    def estimate(self, price: Price, facts: Facts, bound: int | None = None) -> float | None:
        """Dollars to reserve for a request, for the longest answer that it allows.

        ``bound`` is the length in tokens of an answer without a bound of its caller's; see
        :func:`routing.calling.bounds.reserved_answer`. Without that it has ``assumed_output_tokens``. Where a
        cap must hold, the prompt has as many tokens as its estimate allows, each at the dearest that it may cost.
        """
        generates = facts.capability in (Capability.CHAT, Capability.COMPLETION, Capability.REALTIME)
        assumed = (self.assumed if bound is None else bound) if generates else 0
        sure = self._is_sure(facts, bound)
        usage = replace(
            dearest_prompt(self.now_of(price), facts) if sure else Usage(facts.prompt_tokens),
            output=(assumed if facts.output_tokens is None else facts.output_tokens) * facts.choices,
            units=facts.units if facts.capability in UNITS else 0.0,
        )
        return self._dearest(price, usage, facts)

    def _is_sure(self, facts: Facts, bound: int | None) -> bool:
        """Whether the reservation covers the error of the prompt's estimate."""
        if bound is not None or facts.capability in _READING:
            return True
        return facts.output_tokens is not None and bool(self._scopes(facts.key))

    def cost_so_far(self, price: Price, facts: Facts, output: int = 0) -> float | None:
        """Estimated dollars of a request cut after ``output`` tokens.

        All pictures and seconds that were asked for count: their server may go on without a caller.
        """
        units = facts.units if facts.capability in UNITS else 0.0
        return self._dearest(price, Usage(input=facts.prompt_tokens, output=output, units=units), facts)

    def _dearest(self, price: Price, usage: Usage, facts: Facts) -> float | None:
        """Dollars at the dearest service that may answer; ``None`` if a part is unknown."""
        price = self.now_of(price)
        draws = facts.capability is Capability.IMAGE
        pictures = round(facts.units * price.tokens_of_picture(*facts.picture)) if draws else 0
        told = usage.details
        sound = usage.input if told is None and has_sound(facts) else 0
        said = usage.output if facts.capability is Capability.REALTIME else 0
        if pictures:  # by the picture where its tokens have no price: see `cost_of`
            usage = replace(usage, output=pictures)
        drawings = usage.output if pictures else 0
        searches = searches_of(price, facts)
        if sound or said or drawings or searches or facts.containers:
            prompt = (0, sound, 0) if told is None else told.prompt
            usage = replace(usage, details=UsageDetails(*prompt, said, drawings, searches, facts.containers))
        exact = cost_nano(price, usage, facts.capability)
        if exact is None:
            return None
        return exact * price.rates.dearest(facts.tiers, sized=facts.capability is Capability.VIDEO) / NANO

    # ---- caps

    @property
    def assumed(self) -> int:
        """Tokens assumed of an answer without a bound."""
        return self._settings.assumed_output_tokens

    @property
    def store_timeout(self) -> float:
        """Seconds that a capped call waits for a stuck store."""
        return self._settings.store_timeout

    def reserve(
        self,
        *,
        key: str,
        model: str,
        endpoint: str,
        amount: float | None,
        before: float = 0.0,
        calls: int = 1,
    ) -> Reservation:
        """A reservation of ``amount`` dollars (``None``: unknown), to be entered.

        ``before`` are the dollars of earlier attempts at the request, which its cap counts too. ``calls`` are
        those that share the amount; the cap of one request is checked against its share.
        """
        return Reservation(self, key, model, endpoint, amount, before, calls)

    def uncapped(self) -> Spend:
        """A view without caps, for the prices of calls whose money was reserved before."""
        view = copy.copy(self)
        view._settings, view._key_caps, view._known_scopes = SpendSettings(), None, {}
        return view

    def headroom(self, key: str) -> float | None:
        """Dollars that the key may spend on its next call; ``None`` without a cap."""
        if not self._scopes(key):
            return None
        at = self._wall()
        room = [
            counter.limit - self._totals.get(counter.name, 0)
            for counter in self.counters_of(key, at)
            if counter.limit is not None
        ]
        room.extend(to_nano(caps.request) for _, caps in self._scopes(key) if caps.request is not None)
        return max(0, min(room)) / NANO if room else None

    def left(self, key: str) -> Left | None:
        """The dollars left of the caps of the key's windows; ``None`` without such a cap."""
        if not self._scopes(key):
            return None
        now = self._wall()
        rooms = [
            Left(max(0, counter.limit - self._totals.get(counter.name, 0)) / NANO, ends_in(counter, now))
            for counter in self.counters_of(key, now)
            if counter.limit is not None
        ]
        return min(rooms, key=lambda room: room.dollars, default=None)

    def request_cap(self, key: str) -> float | None:
        """Dollars that one request of the key may cost; ``None`` without such a cap."""
        return min((caps.request for _, caps in self._scopes(key) if caps.request is not None), default=None)

    @property
    def unknown_price_allowed(self) -> bool:
        """Whether caps let a call be made whose price is unknown."""
        return self._settings.unknown_price == "allow"

    def capped(self, key: str) -> bool:
        """Whether the key has caps of its own, besides those of the whole gateway."""
        return any(scope != "all" for scope, _ in self._scopes(key))

    def cap_usage(self, key: str) -> tuple[CapUsage, ...]:
        """The use of each cap that applies to a key."""
        now = self._wall()
        rows = []
        for scope, caps in self._scopes(key):
            for window, cap in caps.windows:
                span = window_at(window, now)
                spent = self._totals.get(f"spend/{scope}/{window}/{span.name}", 0) / NANO
                rows.append(CapUsage(scope=scope, window=window, cap=cap, spent=spent))
        return tuple(rows)

    # ---- the store

    async def start(self) -> None:
        """Read the totals, and settle the reservations of dead processes."""
        await self._store.recover(partial(owner_is_gone, now=self._wall()))
        await self.catch_up()

    async def catch_up(self) -> None:
        """Count for caps of a day and longer what was spent before they were set, then read the totals."""
        settings = self._settings
        with contextlib.suppress(OSError):  # also TimeoutError: a stuck store; the next start counts
            await catch_up(self._store, self._scopes, settings.windows, self._wall(), settings.store_timeout)
        await self.refresh()

    async def refresh(self) -> None:
        """Read the totals of the store, to which other gateways add too."""
        if self._store.generation != self._generation:
            self._generation = self._store.generation
            for name, total in self._totals.items():
                self._store.count((Counter(name),), total)
        changes = self._changes_since_read = {}
        try:
            totals = await self._store.counts("spend/")
        finally:
            self._changes_since_read = None
        for name, change in changes.items():
            totals[name] = totals.get(name, 0) + change
        self._totals = totals

    @property
    def lag(self) -> float:
        """Seconds for which the store could not be written: :meth:`usage` misses the calls since. Else 0."""
        return self._store.lag

    async def usage(self, first_day: str, last_day: str) -> list[UsageRow]:
        """The rows for :mod:`routing.accounts.usage_report`."""
        return await self._store.usage(first_day, last_day)

    def _scopes(self, key: str) -> tuple[tuple[str, Caps], ...]:
        """The caps that apply to a key, by scope; scopes without a cap are left out."""
        own = self._key_caps(key) if self._key_caps is not None else None
        known = self._known_scopes.get(key)
        if known is not None and known[0] is own:
            return known[1]
        configured = self._settings.keys.get(key, self._settings.per_key)
        if own is not None:
            configured = Caps(**{**configured.model_dump(), **own.model_dump(exclude_none=True)})
        both = (("all", self._settings.caps), (f"key/{key}", configured))
        scopes = tuple((scope, caps) for scope, caps in both if caps.limiting)
        if len(self._known_scopes) >= _MAX_CACHED_SCOPES:
            self._known_scopes.clear()
        self._known_scopes[key] = own, scopes
        return scopes

    def counters_of(self, key: str, now: float) -> tuple[Counter, ...]:
        found = []
        for scope, caps in self._scopes(key):
            for window, cap in caps.windows:
                span = window_at(window, now)
                found.append(Counter(f"spend/{scope}/{window}/{span.name}", to_nano(cap), span.keep_until))
        return tuple(found)

    # ---- called by a reservation

    def now(self) -> float:
        """Wall time that never decreases: a window must not begin twice when the clock is set back."""
        return self._wall()

    def check(self, call: Reservation, now: float) -> tuple[tuple[Counter, ...], int]:
        """Check a call against the totals: its counters and nano-dollars to hold. Raises BudgetExceeded."""
        scopes = self._scopes(call.key)
        if not scopes:
            return (), 0
        held = 0 if call.amount is None else to_nano(call.amount)
        counters = self.counters_of(call.key, now)
        if call.amount is None:
            if not self.unknown_price_allowed:
                raise PriceUnknown(f"This model cannot answer: {PriceUnknown.reason}.", param="model")
        elif (cap := self.request_cap(call.key)) is not None:
            check_request(to_nano(call.before + call.amount / call.calls), to_nano(cap))
        self._check_windows(counters, held, now)
        return counters, held

    async def take(self, call: Reservation, counters: tuple[Counter, ...], held: int, now: float) -> Hold:
        """Hold in memory at once, so that no other call gets the same money, then in the store."""
        hold = Hold(
            id=next(self._holds) if call.name is None else call.name,
            owner=self._owner if call.name is None else LASTING,
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
            refused = await self._store.hold(hold, self._settings.store_timeout)
        except BaseException:
            self.release(hold)
            raise
        if refused is not None:
            self._add(counters, -held)
            raise exceeded(refused, held, self._totals.get(refused.name, 0), now)
        return hold

    def charge(
        self,
        call: Reservation,
        counters: tuple[Counter, ...],
        hold: Hold | None,
        known: int,
        estimated: int,
        used: Usage,
        *,
        unknown: bool,
    ) -> asyncio.Future[None]:
        """Charge the known cost of a call, and what is ``estimated`` for the part that is ``unknown``.

        That is done in memory at once; the future is done when it is in the store.
        """
        amount = known + estimated
        if self._reconfigured and hold is None:  # the cap may be younger than the call
            counters = self.counters_of(call.key, self._wall())
        self._add(counters, amount - (hold.amount if hold else 0))
        row = UsageRow(
            day=call.day,
            model=call.model,
            endpoint=call.endpoint,
            key=call.key,
            calls=1,
            unknown=int(unknown),
            input=used.input,
            output=used.output,
            cached=used.cached,
            reasoning=used.reasoning,
            units=used.units,
            cost=known,
            estimated=estimated,
        )
        return self._store.charge(Charge(hold.id if hold else None, counters, amount, row, call.once))

    async def forget(self, name: str, at: float, *, key: str) -> None:
        """Release the lasting hold of this name, if there is one; ``at`` is the wall time after which it was made.

        Work whose process died calls it before it reserves anew.
        """
        if not self._scopes(key):
            return
        await self._store.charge(Charge(name, self.counters_of(key, at), 0, UsageRow(day_of(at), "", "", key)))
        await self.refresh()

    def release(self, hold: Hold) -> asyncio.Future[None]:
        """Release the hold of a call that was not made."""
        self._add(hold.counters, -hold.amount)
        usage = UsageRow(hold.day, hold.model, hold.endpoint, hold.key)
        return self._store.charge(Charge(hold.id, hold.counters, 0, usage))

    def _check_windows(self, counters: tuple[Counter, ...], held: int, now: float) -> None:
        for counter in counters if held else ():
            spent = self._totals.get(counter.name, 0)
            if counter.limit is not None and spent + held > counter.limit:
                raise exceeded(counter, held, spent, now)

    def _add(self, counters: tuple[Counter, ...], change: int) -> None:
        for counter in counters if change else ():
            self._totals[counter.name] = self._totals.get(counter.name, 0) + change
            if self._changes_since_read is not None:
                self._changes_since_read[counter.name] = self._changes_since_read.get(counter.name, 0) + change
