"""Slots for work in the background: shared fairly between keys, and given back while the work only waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from server.callers import ANONYMOUS

SLICE = 10.0
"""Seconds after which work makes room for that of a key which has fewer slots."""


PER_FREE_SLOT = 3
"""Slots that a key may have for each that stays free, where they are kept long: three quarters, if it is alone."""
_EVERYONE = frozenset({"", ANONYMOUS.id})
"""Owners on a server without keys."""


def leaves_room(owner: str, mine: int, taken: int, most: int) -> bool:
    """Whether an owner that has ``mine`` of ``taken`` slots may take one that it will keep for long.

    The bound shrinks with the slots that others have (Choudhury and Hahne, "Dynamic queue length thresholds",
    1998), so that one stays free for a key that comes later. The first slot of a key needs nothing but a free one.
    """
    free = most - taken
    if free <= 0 or mine == 0 or owner in _EVERYONE:
        return free > 0
    return mine < PER_FREE_SLOT * (free - 1)


class Slots:
    """``most()`` slots. A free one goes to the waiting owner with the fewest, then to the one that came first."""

    def __init__(self, most: Callable[[], int], monotonic: Callable[[], float]) -> None:
        self.most = most
        self.monotonic = monotonic
        self._held: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    async def take(self, owner: str) -> None:
        """Wait for a slot."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((owner, turn))
        self._grant()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give(owner)
            else:
                self._waiting = [each for each in self._waiting if each[1] is not turn]
            raise

    def force(self, owner: str) -> None:
        """Take a slot though none may be free: for work that is about to end."""
        self._held[owner] += 1

    def give(self, owner: str) -> None:
        """Give a slot back."""
        self._held[owner] -= 1
        self._grant()

    def wanted_from(self, owner: str) -> bool:
        """Whether another owner that has fewer slots waits for one."""
        return any(self._held[other] < self._held[owner] for other, _ in self._waiting if other != owner)

    def _grant(self) -> None:
        self._waiting = [each for each in self._waiting if not each[1].done()]
        while self._waiting and self._held.total() < self.most():
            owner, turn = min(self._waiting, key=lambda each: self._held[each[0]])
            self._waiting.remove((owner, turn))
            self._held[owner] += 1
            turn.set_result(None)


class Slot:
    """The slot of one piece of work: taken while a part of it is ``working``, given back while all of it rests.

    The parts are tasks; one never waits for another while it is ``working``, but ``resting``.
    """

    def __init__(self, slots: Slots, owner: str) -> None:
        self.owner = owner
        self._slots = slots
        self._working = 0
        self._held = False
        self._since = 0.0
        self._entering = asyncio.Lock()
        self._given = asyncio.Event()
        self._begun = False

    @property
    def idle(self) -> bool:
        """Whether it has a slot no more and waits for none."""
        return self._begun and not self._held and not self._entering.locked()

    def leave_out(self) -> None:
        """Count the work as one that needs no slot, such as the end of what was cancelled."""
        self._begun = True

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Have the slot; waits for it where need be."""
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    @asynccontextmanager
    async def resting(self) -> AsyncIterator[None]:
        """Count a part that is ``working`` as one that rests; an error goes on without waiting for the slot."""
        self._leave()
        try:
            yield
        except BaseException:
            self._return()
            raise
        try:
            await self._enter()
        except BaseException:
            self._return()
            raise

    async def sleep(self, seconds: float) -> None:
        """Rest for a time."""
        async with self.resting():
            await asyncio.sleep(seconds)

    async def _enter(self) -> None:
        async with self._entering:
            if self._held and self._is_over():
                self._given.clear()
                await self._given.wait()
            if not self._held:
                await self._slots.take(self.owner)
                self._held, self._begun = True, True
                self._since = self._slots.monotonic()
            self._working += 1

    def _is_over(self) -> bool:
        return self._slots.monotonic() - self._since >= SLICE and self._slots.wanted_from(self.owner)

    def _return(self) -> None:
        if not self._held:
            self._slots.force(self.owner)
            self._held = True
        self._working += 1

    def _leave(self) -> None:
        self._working -= 1
        if not self._working:
            self._held = False
            self._slots.give(self.owner)
            self._given.set()


def unbounded(owner: str) -> Slot:
    """A slot that is always free."""
    return Slot(Slots(lambda: 1_000_000, lambda: 0.0), owner)
