"""Queues in front of endpoints with ``max_concurrency``.

They are the same queues as in front of a worker: bounded, fair between callers, interactive before batch, and
visible to the router. An endpoint without ``max_concurrency`` has none. Each gateway process counts for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backends.queueing import FairSlots
from catalog.model import Endpoint
from routing.clock import Clock


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """Load of one endpoint: calls in progress, calls waiting, and how many may be in progress at a time."""

    endpoint: str
    busy: int
    waiting: int
    capacity: int


class ConcurrencyLimits:
    """The queues of the endpoints, created on first use. Up to ``max_queue`` calls may wait in each."""

    def __init__(self, clock: Clock, *, max_queue: int) -> None:
        self._clock = clock
        self._max_queue = max_queue
        self._queues: dict[str, FairSlots] = {}

    def at(self, endpoint: Endpoint) -> FairSlots | None:
        """The queue of an endpoint, ``None`` without ``max_concurrency``. A changed row applies at once."""
        limit = endpoint.max_concurrency
        queue = self._queues.get(endpoint.id)
        if limit is None:
            if queue is not None:
                # The calls still waiting start at once.
                queue.resize(queue.busy + queue.waiting)
                del self._queues[endpoint.id]
            return None
        if queue is None:
            queue = self._queues[endpoint.id] = FairSlots(
                max_queue=self._max_queue,
                changed=_ignore,
                clock=self._clock.monotonic,
                name=f"the endpoint '{endpoint.id}'",
            )
            queue.open(limit)
        elif queue.capacity != limit:
            queue.resize(limit)
        return queue

    def queue_loads(self) -> tuple[QueueLoad, ...]:
        """The load of every endpoint that has a queue."""
        return tuple(
            QueueLoad(name, queue.busy, queue.waiting, queue.capacity) for name, queue in self._queues.items()
        )

    def queued_ahead(self) -> Mapping[str, float]:
        """Calls ahead of a new interactive one, divided by the capacity, by endpoint; only where it would wait."""
        return {
            name: (queue.waiting - queue.waiting_batch + 1) / queue.capacity
            for name, queue in self._queues.items()
            if queue.busy >= queue.capacity
        }


def _ignore() -> None: ...
