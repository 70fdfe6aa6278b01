"""A bounded queue, fair between callers, in front of a worker's slots or of an endpoint that limits calls."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import Generic, TypeVar

from catalog.errors import QueueFull, RoundhouseError

T = TypeVar("T")


class Priority(StrEnum):
    """The class of a request in a queue: interactive goes first, and batch is never starved."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Need:
    """The requirements of a request for slots.

    ``slots`` is 0 for a call that decodes nothing (tokenise). ``flow`` identifies the caller to the fair queue (a
    key's id).
    """

    slots: int = 1
    flow: str = ""
    priority: Priority = Priority.INTERACTIVE


INTERACTIVE_PER_BATCH = 4
"""Interactive requests that are served before each batch request while both wait."""
BATCH_SHARE = 4
"""Batch gets one slot in so many, at least one, while interactive requests come; else all but so many."""
CALM = 5.0
"""Seconds after an interactive request in which more are expected."""
LULL = 0.3
"""Seconds after an interactive request until batch requests may use a worker that gives way."""
AWHILE = 60.0
"""Seconds after an interactive request for which a worker that gives way has one batch request at a time."""
REST = 3
"""Times as long as a batch request was at work beside interactive ones, the next waits for a lull."""
LONGEST_REST = 60.0
"""Seconds after which a batch request goes on beside interactive ones, however long the last was at work."""


class FairQueue(Generic[T]):
    """A queue with round robin between flows and first in, first out within each.

    Interactive items go before batch items, but one batch item follows each ``INTERACTIVE_PER_BATCH`` interactive
    ones, so batch is slowed and never starved.
    """

    def __init__(self) -> None:
        self._flows: dict[Priority, OrderedDict[str, deque[T]]] = {p: OrderedDict() for p in Priority}
        self._since_batch = 0

    def __len__(self) -> int:
        return sum(len(items) for flows in self._flows.values() for items in flows.values())

    def push(self, item: T, *, flow: str, priority: Priority) -> None:
        self._flows[priority].setdefault(flow, deque()).append(item)

    def waiting(self, priority: Priority) -> int:
        """The number of items of one class."""
        return sum(map(len, self._flows[priority].values()))

    def peek(self, *, batch: bool = True) -> T:
        """Return the item that :meth:`pop` would return; without ``batch`` an interactive one.

        Raises IndexError if there is none.
        """
        flows = self._flows[self._turn(batch)]
        return next(iter(flows.values()))[0]

    def pop(self, *, batch: bool = True) -> T:
        """Remove and return the next item; its flow moves to the end of the round. Raises as :meth:`peek`."""
        priority = self._turn(batch)
        flows = self._flows[priority]
        flow, items = next(iter(flows.items()))
        item = items.popleft()
        del flows[flow]
        if items:
            flows[flow] = items
        self._since_batch = self._since_batch + 1 if priority is Priority.INTERACTIVE else 0
        return item

    def remove(self, item: T, *, flow: str, priority: Priority) -> bool:
        """Remove an item from the middle of the queue; False if it is no longer in it."""
        flows = self._flows[priority]
        items = flows.get(flow)
        if items is None or item not in items:
            return False
        items.remove(item)
        if not items:
            del flows[flow]
        return True

    def displace(self, *, flow: str, priority: Priority) -> T | None:
        """Remove and return an item of a full queue in favour of a newcomer; ``None`` if the newcomer is refused.

        Batch is entitled to one place in ``INTERACTIVE_PER_BATCH + 1``, interactive to the others. A class below
        its share displaces the newest item of the other class's longest flow. Otherwise the longest flow of the
        same class loses its newest item, if it has at least two more than the newcomer's flow. So a flooding
        caller fills the queue only while there are no others (longest queue drop; see Suter et al., "Design
        Considerations for Supporting TCP with Per-flow Queueing", 1998).
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

    def _turn(self, may_batch: bool = True) -> Priority:
        interactive, batch = self._flows[Priority.INTERACTIVE], may_batch and self._flows[Priority.BATCH]
        if not interactive and not batch:
            raise IndexError("the queue is empty")
        if not interactive or (batch and self._since_batch >= INTERACTIVE_PER_BATCH):
            return Priority.BATCH
        return Priority.INTERACTIVE


@dataclass(eq=False, slots=True)
class Grant:
    """The right to use ``slots`` slots; compared by identity, so one of an earlier process is not mistaken."""

    slots: int
    priority: Priority = Priority.INTERACTIVE


@dataclass(eq=False, slots=True)
class _Waiter:
    need: Need
    future: asyncio.Future[Grant] = field(repr=False)


LONGEST_WAIT = 60.0
"""Seconds that a refused request is told to wait at most: by then the queue is another one."""
_HOLDS = 16
_LATELY = 120.0


class FairSlots:
    """The slots of one worker or endpoint and the queue for them, which also exists while a worker loads.

    Batch requests leave slots free for interactive ones, and more while those come: an interactive request finds a
    slot at once, and shares its worker with few batch requests. Some batch request is always at work, unless the
    slots *give way*: then batch requests use the pauses between interactive ones, and where there are none, one at
    a time works for a quarter of the time.

    No slot is granted before :meth:`open`; then at most ``capacity`` are held at a time. ``changed`` is called
    after every change of the grants or the queue, so that the owner can see demand and idleness. ``name`` is used
    in the message of QueueFull. ``later`` calls a function after so many seconds (default: the loop does).
    """

    def __init__(
        self,
        *,
        max_queue: int,
        changed: Callable[[], None],
        clock: Callable[[], float],
        name: str = "the model",
        later: Callable[[float, Callable[[], None]], asyncio.TimerHandle] | None = None,
    ) -> None:
        self._max_queue = max_queue
        self._later = later
        self._name = name
        self._changed = changed
        self._clock = clock
        self._queue: FairQueue[_Waiter] = FairQueue()
        self._held: set[Grant] = set()
        self._capacity = 0
        self._holds: deque[tuple[float, float]] = deque(maxlen=_HOLDS)
        self._granted_at: dict[Grant, float] = {}
        self._interactive_at = self._rested_at = float("-inf")
        self._gives_way = False
        self._timer: asyncio.TimerHandle | None = None
        self._asks_at = float("inf")
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
        """Grants in use, including those of no slot."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def waiting_batch(self) -> int:
        """The batch requests of those that wait, which a new interactive request does not wait for."""
        return self._queue.waiting(Priority.BATCH)

    @property
    def idle(self) -> bool:
        return not self._held and not len(self._queue)

    def open(self, capacity: int, *, gives_way: bool = False) -> None:
        """Begin to grant slots of a new process; grants of an earlier one are void.

        ``gives_way`` is for a device that slows each request down for every other one, such as a CPU.
        """
        self._gives_way = gives_way
        self._held.clear()
        self._granted_at.clear()
        self.completed = 0
        self._capacity = capacity
        self._grant()
        self._changed()

    def resize(self, capacity: int) -> None:
        """Change the capacity; grants beyond a smaller one are kept until released."""
        self._capacity = capacity
        self._grant()
        self._changed()

    def close(self) -> None:
        """Stop granting; present grants and the queue are kept."""
        self._capacity = 0
        self._changed()

    def lost(self) -> None:
        """Void all grants, as the process is gone; the queue is kept."""
        self._capacity = 0
        self._held.clear()
        self._granted_at.clear()
        self._changed()

    def fail(self, error: Callable[[], RoundhouseError]) -> None:
        """Fail every waiting request with its own error."""
        while len(self._queue):
            waiter = self._queue.pop()
            if not waiter.future.done():
                waiter.future.set_exception(error())
        self._changed()

    async def acquire(self, need: Need) -> Grant:
        """Wait for the slots. Raises QueueFull if the queue is full, either at once or, for a request that a later
        one displaces (:meth:`FairQueue.displace`), while it waits.

        A cancelled wait leaves the queue at once; a grant in the same moment is released.
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
        """Release a grant; no effect for one of an earlier process."""
        if grant not in self._held:
            return
        now = self._clock()
        self._held.discard(grant)
        held_for = now - self._granted_at.pop(grant)
        if not grant.slots:
            pass
        elif grant.priority is Priority.INTERACTIVE:
            self._interactive_at = now
        else:
            self._rested_at = now + min(LONGEST_REST, REST * held_for)
        if grant.slots and completed:
            self._holds.append((now, held_for))
        self.completed += completed
        self.last_used = now
        self._grant()
        self._changed()

    def estimated_wait(self) -> float:
        """Estimate the wait of a new request in seconds, 1 to :data:`LONGEST_WAIT`.

        The median of how long slots were held of late: one long request says nothing about the next.
        """
        since = self._clock() - _LATELY
        lately = [seconds for ended, seconds in self._holds if ended >= since]
        rounds = (len(self._queue) + 1) / max(1, self._capacity)
        return min(LONGEST_WAIT, max(1.0, rounds * (median(lately) if lately else 1.0)))

    def _full(self) -> QueueFull:
        return QueueFull(
            f"The queue of {self._name} is full ({self._max_queue} requests are waiting). Try again later.",
            retry_after=self.estimated_wait(),
        )

    def _grant(self) -> None:
        while self._capacity and len(self._queue):
            batch = self._has_room_for_batch()
            if not batch and not self._queue.waiting(Priority.INTERACTIVE):
                return
            waiter = self._queue.peek(batch=batch)
            slots = min(waiter.need.slots, self._capacity)
            if slots and self.busy + slots > self._capacity:
                return
            self._queue.pop(batch=batch)
            if waiter.future.done():
                continue
            grant = Grant(slots, waiter.need.priority)
            self._held.add(grant)
            self._granted_at[grant] = self.last_used = self._clock()
            waiter.future.set_result(grant)

    def _has_room_for_batch(self) -> bool:
        """Whether a batch request may take a slot now. If not, a timer or a request's end asks again."""
        if not self._queue.waiting(Priority.BATCH) or (self._capacity == 1 and not self._gives_way):
            return True
        held = sum(grant.slots for grant in self._held if grant.priority is Priority.BATCH)
        talks = any(grant.slots and grant.priority is Priority.INTERACTIVE for grant in self._held)
        since = self._clock() - self._interactive_at
        if self._gives_way and (talks or since < LULL):
            return not held and self._is_rested(talks)
        share = max(1, self._capacity // BATCH_SHARE)
        if self._gives_way and since < AWHILE:
            share = 1
        elif since > CALM and not talks:
            share = max(share, self._capacity - share)
        return held < share

    def _is_rested(self, talks: bool) -> bool:
        """Whether a batch request may work beside interactive ones; if not, it is looked at again in time."""
        now = self._clock()
        wait = self._rested_at - now
        if wait <= 0:
            return True
        if not talks:
            wait = min(wait, self._interactive_at + LULL - now)
        wait = max(wait, 0.001)  # at the very moment, rounding may tell that it is still to come
        if now + wait < self._asks_at:
            if self._timer is not None:
                self._timer.cancel()
            self._asks_at = now + wait
            self._timer = (self._later or asyncio.get_running_loop().call_later)(wait, self._ask_again)
        return False

    def _ask_again(self) -> None:
        self._timer, self._asks_at = None, float("inf")
        before = len(self._held)
        self._grant()
        if len(self._held) != before:
            self._changed()
