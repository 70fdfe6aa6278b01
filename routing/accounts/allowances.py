"""Exact limits on counters that gateways share, with a small reserve in memory.

A counter in the store has what was used and what gateways hold in reserve. Amounts are added to it by
:meth:`routing.state.protocol.State.claim` before they are used, all or nothing, so gateways together never pass a
limit. A gateway in demand claims more than it needs now, as much as it used since the last :meth:`Allowances.sync`
and at most a sixteenth of what is left, and serves the next requests from that without asking the store. ``sync``
gives back what was not needed, so the last of a limit is out of other gateways' reach for a second at most.

A reserve that is lost with its process counts as used. While the store does not answer within ``store_timeout``
seconds, the last known totals decide, and what passes is added to the counters later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from routing.state.protocol import Claim, Counter, State

STORE_TIMEOUT = 0.25


class Want(NamedTuple):
    """``amount`` of a counter, and as much of ``optional`` as there is room for.

    A ``whole`` one is claimed from the store, not from the reserve in memory: it is the work of seconds, so one
    claim costs it nothing that shows, and a reserve of that size would be out of other gateways' reach.
    """

    counter: Counter
    amount: int
    optional: int = 0
    whole: bool = False


class Refusal(NamedTuple):
    """The counter that has no room for ``amount``, and its total."""

    counter: Counter
    amount: int
    total: int


@dataclass(slots=True)
class _Reserve:
    """``left`` is claimed and unused; ``drawn`` was used since the last sync; ``total`` is the counter's last
    value.

    ``full`` means that the limit was reached, so that refusals until the next sync need not ask the store.
    """

    counter: Counter
    left: int = 0
    drawn: int = 0
    total: int = 0
    full: bool = False


class Allowances:
    """Takes amounts from limited counters."""

    def __init__(self, state: State, *, store_timeout: float = STORE_TIMEOUT) -> None:
        self._state = state
        self._store_timeout = store_timeout
        self._reserves: dict[str, _Reserve] = {}

    async def take(self, wanted: Sequence[tuple[Counter, int]]) -> Refusal | None:
        """Use an amount of each counter, all or nothing. It suspends only if a reserve does not suffice."""
        taken = await self.reserve([Want(counter, amount) for counter, amount in wanted])
        return taken if isinstance(taken, Refusal) else None

    async def reserve(self, wanted: Sequence[Want]) -> Refusal | tuple[int, ...]:
        """Take what is wanted of each counter, all or nothing; returns the amounts, with what was optional."""
        drawn: list[tuple[_Reserve, int]] = []
        claims: list[tuple[_Reserve, Want]] = []
        for want in wanted:
            reserve = self._reserve(want.counter)
            covered = 0 if want.whole else min(reserve.left, want.amount)
            reserve.left -= covered
            drawn.append((reserve, covered))
            if want.whole or covered < want.amount or (want.amount == 0 and reserve.left == 0):
                if reserve.full:
                    _put_back(drawn)
                    return Refusal(want.counter, want.amount, reserve.total - reserve.left)
                claims.append((reserve, want._replace(amount=want.amount - covered)))
        optional: dict[str, int] = {}
        if claims:
            try:
                full = await self._claim(claims, optional)
            except BaseException:
                _put_back(drawn)
                raise
            if full is not None:
                _put_back(drawn)
                amount = next(want.amount for want in wanted if want.counter.name == full.counter.name)
                total = full.total - full.left
                return Refusal(full.counter, amount, total)
        taken = tuple(want.amount + optional.get(want.counter.name, 0) for want in wanted)
        for (reserve, _), amount in zip(drawn, taken, strict=True):
            reserve.drawn += amount
        return taken

    def room(self, counter: Counter) -> int:
        """The rest of a counter's limit, as of the last claim."""
        reserve = self._reserve(counter)
        return max(0, (counter.limit or 0) - reserve.total + reserve.left)

    def correct(self, counter: Counter, change: int) -> None:
        """Add what was used beyond the amount taken, or give back (negative) what was not."""
        if change == 0:
            return
        reserve = self._reserve(counter)
        reserve.total += change
        reserve.full = reserve.full and change > 0
        self._state.count((counter,), change, urgent=True)

    def sync(self, *, generation_changed: bool = False) -> None:
        """Give back what is not in demand, and ask the store again about limits that were reached.

        After ``generation_changed``, the store is new and empty: it gets the last known totals.
        """
        for name, reserve in tuple(self._reserves.items()):
            if generation_changed and reserve.total:
                self._state.count((reserve.counter,), reserve.total)
            spare = max(0, reserve.left - reserve.drawn)
            if spare:
                self._give_back(reserve, spare)
            elif not reserve.drawn and not reserve.left:
                del self._reserves[name]
            reserve.drawn = 0
            reserve.full = False

    def close(self) -> None:
        """Give back everything."""
        for reserve in self._reserves.values():
            if reserve.left:
                self._give_back(reserve, reserve.left)
        self._reserves.clear()

    def _reserve(self, counter: Counter) -> _Reserve:
        reserve = self._reserves.get(counter.name)
        if reserve is None:
            reserve = self._reserves[counter.name] = _Reserve(counter)
        return reserve

    def _give_back(self, reserve: _Reserve, amount: int) -> None:
        reserve.left -= amount
        reserve.total -= amount
        self._state.count((reserve.counter,), -amount)

    async def _claim(self, wanted: list[tuple[_Reserve, Want]], optional: dict[str, int]) -> _Reserve | None:
        """Claim the amounts, and note in ``optional`` what there was room for; the reserve without room, or
        ``None``."""
        claims = [
            Claim(reserve.counter, want.amount, 0 if want.whole else reserve.drawn, want.optional)
            for reserve, want in wanted
        ]
        try:
            claimed = await self._state.claim(claims, self._store_timeout)
        except OSError:  # also TimeoutError and ConnectionError
            return self._decide_here(wanted, optional)
        for (reserve, _), total in zip(wanted, claimed.totals, strict=True):
            reserve.total = total
        if claimed.refused is not None:
            refused = wanted[claimed.refused][0]
            refused.full = refused.total >= (refused.counter.limit or 0)
            return refused
        for (reserve, want), granted in zip(wanted, claimed.granted, strict=True):
            optional[reserve.counter.name] = min(want.optional, granted - want.amount)
            reserve.left += granted - want.amount - optional[reserve.counter.name]
        return None

    def _decide_here(self, wanted: list[tuple[_Reserve, Want]], optional: dict[str, int]) -> _Reserve | None:
        for reserve, want in wanted:
            limit = reserve.counter.limit or 0
            if reserve.total + want.amount > limit or reserve.total >= limit:
                return reserve
        for reserve, want in wanted:
            room = (reserve.counter.limit or 0) - reserve.total - want.amount
            optional[reserve.counter.name] = min(want.optional, room)
            amount = want.amount + optional[reserve.counter.name]
            reserve.total += amount
            self._state.count((reserve.counter,), amount)
        return None


def _put_back(drawn: list[tuple[_Reserve, int]]) -> None:
    for reserve, amount in drawn:
        reserve.left += amount
