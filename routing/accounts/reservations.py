"""Tokens reserved for answers in progress: the longest answer is counted at admission, the real one at its end.

A reservation is on the counters of a key's limits before the call is made, so that a burst cannot pass them by the
answers in flight. A caller that bounds its answer (``max_tokens``) reserves that bound. Without a bound the answer
reserves :data:`ASSUMED` tokens, or what is left of the limit if that is less: reserving the longest answer of a
model (often 128,000 tokens) would refuse callers whose answers are short. It may use what is left of the limit,
which its upstream is told as its bound, and reserves more as it grows. So one answer never passes a limit; those
in progress together may, by what each becomes longer than it had reserved when the last of it was taken.

Beside every counter the store has the tokens that each process holds for answers, so that those of a process that
died are given back (:meth:`TokenReservations.recover`). The held amount is written after the reservation and taken
off before what is unused is given back: a crash in between counts too much, never too little.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

from catalog.model import Capability
from routing.accounts.allowances import STORE_TIMEOUT, Allowances
from routing.facts import Facts
from routing.outcomes import Outcome, Result
from routing.state.protocol import Claim, Counter, State, owner_is_gone, process_name

ASSUMED = 1024
"""Tokens reserved for an answer without a bound."""
_GENERATES = frozenset(
    {Capability.CHAT, Capability.COMPLETION, Capability.TRANSCRIBE, Capability.IMAGE, Capability.REALTIME}
)
_CHARACTERS_PER_TOKEN = 3
"""Of text whose upstream reports no usage: rather too many tokens than too few."""
_HELD, _RECOVERED, _RATE = "held/", "recovered/", "/rate/"
_READ_EVERY = 1.0
_KEEP_RECOVERED = 86_400.0


def answer_tokens(facts: Facts) -> tuple[int, int]:
    """Tokens that must be reserved for an answer, and those to reserve if there is room."""
    if facts.capability not in _GENERATES or facts.tokens_only:
        return 0, 0
    if facts.output_tokens is None:
        return 0, ASSUMED * facts.choices
    return facts.output_tokens * facts.choices, 0


class TokenGrant:
    """The tokens reserved for one request on each counter, and what its attempts used.

    ``most`` is the longest that each choice may become by the limits; ``None`` if the caller bounds them itself.
    """

    __slots__ = ("_characters", "_used", "facts", "most", "reserved")

    def __init__(self, facts: Facts, reserved: tuple[tuple[Counter, int], ...], most: int | None = None) -> None:
        self.facts = facts
        self.reserved = reserved
        self.most = most
        self._used = 0
        self._characters = 0

    @property
    def used(self) -> int:
        """Tokens used by all attempts that have ended."""
        return self._used

    def see(self, item: Any) -> bool:
        """Measure an item of the answer; whether an answer without a bound is longer now than what it reserved."""
        for choice in (item.get("choices") or ()) if isinstance(item, dict) else ():
            self._characters += characters(choice.get("delta") or choice.get("text"))
        if self.most is None:
            return False
        return self.facts.prompt_tokens + self._characters // _CHARACTERS_PER_TOKEN > self.reserved[0][1]

    def add(self, outcome: Outcome) -> None:
        """Add an attempt's tokens. Unknown ones are the prompt's estimate and the text that came."""
        if outcome.usage.known:
            self._used += outcome.usage.input + outcome.usage.output
        elif outcome.result in _ANSWERED or self._characters or outcome.usage.output:
            came = -(-self._characters // _CHARACTERS_PER_TOKEN) or outcome.usage.output
            self._used += self.facts.prompt_tokens + came


_ANSWERED = (Result.SUCCESS, Result.REFUSAL, Result.CANCELLED)


def characters(value: Any) -> int:
    """The characters of every text in a delta, those of tool calls and reasoning too."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(characters(each) for each in value.values())
    return sum(characters(each) for each in value) if isinstance(value, list) else 0


class TokenReservations:
    """Holds reservations, settles them, and gives back those of dead processes."""

    def __init__(self, state: State, allowances: Allowances, *, owner: str | None = None) -> None:
        self._state = state
        self._allowances = allowances
        self._owner = owner or process_name()
        self._held: dict[str, int] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        self._others: dict[str, int] = {}
        self._read_at = -math.inf

    async def in_flight(self, counter: Counter, now: float) -> int:
        """Tokens of a counter that all processes hold for answers in progress; ``now`` is monotonic time.

        Those of others are as they were a second ago at most, or longer if the store does not answer.
        """
        if now - self._read_at >= _READ_EVERY:
            self._read_at = now
            with contextlib.suppress(OSError):  # also TimeoutError
                self._others = await self._read_others()
        return self._held.get(counter.name, 0) + self._others.get(counter.name, 0)

    async def _read_others(self) -> dict[str, int]:
        others: dict[str, int] = {}
        for name, amount in (await self._state.counts(_HELD)).items():
            owner, _, rest = name.removeprefix(_HELD).partition(_RATE)
            if owner != self._owner:
                counter = _RATE.removeprefix("/") + rest
                others[counter] = others.get(counter, 0) + amount
        return others

    def see(self, grant: TokenGrant, item: Any) -> None:
        """Measure an item of the answer, and reserve more for one that outgrows what it has."""
        if grant.see(item):
            more = ASSUMED * grant.facts.choices
            for counter, _ in grant.reserved:
                self._allowances.correct(counter, more)
            self._note(grant, -1)
            grant.reserved = tuple((counter, reserved + more) for counter, reserved in grant.reserved)
            self._note(grant, 1)

    def hold(self, grant: TokenGrant) -> TokenGrant:
        """Note what a grant holds for its answer; it is settled exactly once."""
        self._note(grant, 1)
        return grant

    def settle(self, grant: TokenGrant) -> None:
        """Replace the reserved tokens by those that were used."""
        self._note(grant, -1)
        for counter, reserved in grant.reserved:
            self._allowances.correct(counter, grant.used - reserved)

    def _note(self, grant: TokenGrant, sign: int) -> None:
        for counter, reserved in grant.reserved:
            answer = reserved - grant.facts.prompt_tokens
            if not answer:
                continue
            held = self._held.get(counter.name, 0) + sign * answer
            if held:
                self._held[counter.name] = held
            else:
                self._held.pop(counter.name, None)
            beside = Counter(f"{_HELD}{self._owner}/{counter.name}", None, counter.expires_at)
            self._state.count((beside,), sign * answer)

    async def recover(self, now: float, gone: Callable[[str, float], bool] | None = None) -> int:
        """Give back what processes that are gone held for answers; returns the tokens. ``now`` is wall time.

        A process of another host is gone when what it holds has not changed for an hour.
        """
        recovered = 0
        held = {name: amount for name, amount in (await self._state.counts(_HELD)).items() if amount > 0}
        self._seen = {name: seen for name, seen in self._seen.items() if name in held}
        for name, amount in held.items():
            owner, _, rest = name.removeprefix(_HELD).partition(_RATE)
            if self._seen.get(name, (None, 0.0))[0] != amount:
                self._seen[name] = amount, now
            since = self._seen[name][1]
            is_gone = owner_is_gone(owner, since, now=now) if gone is None else gone(owner, since)
            if owner == self._owner or not is_gone:
                continue
            once = Counter(f"{_RECOVERED}{name}", 1, now + _KEEP_RECOVERED)
            counter = Counter(_RATE.removeprefix("/") + rest)
            claims = [Claim(once, 1), Claim(Counter(name), -amount), Claim(counter, -amount)]
            if (await self._state.claim(claims, STORE_TIMEOUT)).refused is None:
                recovered += amount
        return recovered
