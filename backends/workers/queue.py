"""Whose turn it is: a bounded queue, fair between callers, in front of a worker's slots."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from backends.workers.pool import Need, Priority
from catalog.errors import QueueFull, RoundhouseError

T = TypeVar("T")

INTERACTIVE_PER_BATCH = 4
"""While both wait, one batch request goes after this many interactive ones."""


class FairQueue(Generic[T]):
    """Items of several flows, taken round robin; each flow is first in, first out.

    Interactive items go before batch items, except that one batch item follows each
    ``INTERACTIVE_PER_BATCH`` interactive ones, so that batch is slowed and never starved.
    """

    def __init__(self) -> None:
        self._flows: dict[Priority, OrderedDict[str, deque[T]]] = {p: OrderedDict() for p in Priority}
        self._since_batch = 0

    def __len__(self) -> int:
        return sum(len(items) for flows in self._flows.values() for items in flows.values())

    def push(self, item: T, *, flow: str, priority: Priority) -> None:
        self._flows[priority].setdefault(flow, deque()).append(item)

    def peek(self) -> T:
        """The item that :meth:`pop` would give. Raises IndexError when there is none."""
        flows = self._flows[self._turn()]
        return next(iter(flows.values()))[0]

    def pop(self) -> T:
        """Take the next item; its flow goes to the end of the round."""
        priority = self._turn()
        flows = self._flows[priority]
        flow, items = next(iter(flows.items()))
        item = items.popleft()
        del flows[flow]
        if items:
            flows[flow] = items
        self._since_batch = self._since_batch + 1 if priority is Priority.INTERACTIVE else 0
        return item

    def remove(self, item: T, *, flow: str, priority: Priority) -> bool:
        """Take an item out of its place; False if it is no longer there."""
        flows = self._flows[priority]
        items = flows.get(flow)
        if items is None or item not in items:
            return False
        items.remove(item)
        if not items:
            del flows[flow]
        return True

    def displace(self, *, flow: str, priority: Priority) -> T | None:
        """Take out the item that makes room in a full queue for a newcomer; ``None``: there is none, refuse him.

        Batch may fill one place in ``INTERACTIVE_PER_BATCH + 1`` against interactive items, those the others;
        within its part, who has at least two items more than the newcomer's flow yields the newest of them. So
        a caller who floods the queue fills it only as long as nobody else comes (longest queue drop; see Suter
        et al., "Design Considerations for Supporting TCP with Per-flow Queueing", 1998).
        """
        waiting = {p: sum(map(len, flows.values())) for p, flows in self._flows.items()}
        batch = sum(waiting.values()) // (INTERACTIVE_PER_BATCH + 1)
        share = {Priority.BATCH: batch, Priority.INTERACTIVE: sum(waiting.values()) - batch}
        if waiting[priority] < share[priority]:
            (yielding,) = set(Priority) - {priority}
            least = 1
        else:
            yielding = priority
            least = len(self._flows[priority].get(flow, ())) + 2
        flows = self._flows[yielding]
        largest = max(flows, key=lambda name: len(flows[name]), default=None)
        if largest is None or len(flows[largest]) < least:
            return None
        item = flows[largest].pop()
        if not flows[largest]:
            del flows[largest]
        return item

    def _turn(self) -> Priority:
        interactive, batch = self._flows[Priority.INTERACTIVE], self._flows[Priority.BATCH]
        if not interactive and not batch:
            raise IndexError("the queue is empty")
        if not interactive or (batch and self._since_batch >= INTERACTIVE_PER_BATCH):
            return Priority.BATCH
        return Priority.INTERACTIVE


@dataclass(eq=False, slots=True)
class Grant:
    """The right to use ``slots`` slots; compared by identity, so one of an earlier process is never mistaken."""

    slots: int


@dataclass(eq=False, slots=True)
class _Waiter:
    need: Need
    future: asyncio.Future[Grant] = field(repr=False)


class Slots:
    """The slots of one worker, and those who wait for them, also while the worker still loads.

    Closed until :meth:`open`; then up to ``capacity`` slots are held at a time. ``changed`` is called after
    every change of who holds or waits, so that the owner can see demand and idleness. ``name`` is what a refusal
    calls the place.
    """

    def __init__(
        self,
        *,
        max_queue: int,
        changed: Callable[[], None],
        clock: Callable[[], float],
        name: str = "the model",
    ) -> None:
        self._max_queue = max_queue
        self._name = name
        self._changed = changed
        self._clock = clock
        self._queue: FairQueue[_Waiter] = FairQueue()
        self._held: set[Grant] = set()
        self._capacity = 0
        self._hold_seconds = 1.0
        self._granted_at: dict[Grant, float] = {}
        self.last_used: float | None = None
        self.completed = 0

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def busy(self) -> int:
        """Slots in use."""
        return sum(grant.slots for grant in self._held)

    @property
    def users(self) -> int:
        """Leases in use, those without a slot too."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def idle(self) -> bool:
        return not self._held and not len(self._queue)

    def open(self, capacity: int) -> None:
        """A new incarnation of the worker is ready; what older ones had given out no longer counts."""
        self._held.clear()
        self._granted_at.clear()
        self.completed = 0
        self._capacity = capacity
        self._grant()
        self._changed()

    def resize(self, capacity: int) -> None:
        """From now on so many may be held; who holds one beyond that keeps it."""
        self._capacity = capacity
        self._grant()
        self._changed()

    def close(self) -> None:
        """Grant nothing more; those who hold a slot keep it, those who wait go on waiting."""
        self._capacity = 0
        self._changed()

    def lost(self) -> None:
        """The worker is gone: nothing is held any more."""
        self._capacity = 0
        self._held.clear()
        self._granted_at.clear()
        self._changed()

    def fail(self, error: Callable[[], RoundhouseError]) -> None:
        """Everyone who waits gets an error of their own."""
        while len(self._queue):
            waiter = self._queue.pop()
            if not waiter.future.done():
                waiter.future.set_exception(error())
        self._changed()

    async def acquire(self, need: Need) -> Grant:
        """Wait for a turn. Raises QueueFull when the queue is at its bound: at once, unless it is fair that this
        caller waits and another one, who has more waiting, does not; then it is that one who is told.

        A cancelled wait leaves no trace, also when it is cancelled in the moment of its turn.
        """
        if len(self._queue) >= self._max_queue:
            displaced = self._queue.displace(flow=need.flow, priority=need.priority)
            if displaced is None:
                raise self._full()
            if not displaced.future.done():
                displaced.future.set_exception(self._full())
        waiter = _Waiter(need, asyncio.get_running_loop().create_future())
        self._queue.push(waiter, flow=need.flow, priority=need.priority)
        self._grant()
        self._changed()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self.release(waiter.future.result(), completed=False)
            elif self._queue.remove(waiter, flow=need.flow, priority=need.priority):
                self._grant()
                self._changed()
            raise

    def release(self, grant: Grant, *, completed: bool = True) -> None:
        """Give back; without effect for an incarnation that is gone."""
        if grant not in self._held:
            return
        now = self._clock()
        self._held.discard(grant)
        held_for = now - self._granted_at.pop(grant)
        if grant.slots and completed:
            self._hold_seconds += 0.2 * (held_for - self._hold_seconds)
        self.completed += completed
        self.last_used = now
        self._grant()
        self._changed()

    def estimated_wait(self) -> float:
        """Seconds until a request that came now would have its turn, from how long slots were held lately."""
        rounds = (len(self._queue) + 1) / max(1, self._capacity)
        return max(1.0, rounds * self._hold_seconds)

    def _full(self) -> QueueFull:
        return QueueFull(
            f"The queue of {self._name} is full ({self._max_queue} requests are waiting). Try again later.",
            retry_after=self.estimated_wait(),
        )

    def _grant(self) -> None:
        while self._capacity and len(self._queue):
            waiter = self._queue.peek()
            slots = min(waiter.need.slots, self._capacity)
            if slots and self.busy + slots > self._capacity:
                return
            self._queue.pop()
            if waiter.future.done():
                continue
            grant = Grant(slots)
            self._held.add(grant)
            self._granted_at[grant] = self.last_used = self._clock()
            waiter.future.set_result(grant)
