"""Queues for endpoints that take only so many calls at a time (``max_concurrency`` of their rows).

The queue in front of such an endpoint is ours, as it is in front of a worker: bounded, fair between callers,
interactive before batch, and seen by the router. Without the figure an endpoint is asked as often as anybody
likes. Each gateway process counts for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backends.workers.queue import Slots
from catalog.model import Endpoint
from routing.clock import Clock


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """One endpoint now: calls at work, those that wait, and how many may work at a time."""

    endpoint: str
    busy: int
    waiting: int
    capacity: int


class ConcurrencyLimits:
    """The queues of the endpoints, made when they are first called. ``max_queue`` calls may wait for each."""

    def __init__(self, clock: Clock, *, max_queue: int) -> None:
        self._clock = clock
        self._max_queue = max_queue
        self._queues: dict[str, Slots] = {}

    def at(self, endpoint: Endpoint) -> Slots | None:
        """Where to wait for a turn; ``None``: there is nothing to wait for. Follows a changed row at once."""
        most = endpoint.max_concurrency
        queue = self._queues.get(endpoint.id)
        if most is None:
            if queue is not None:  # whoever still waits need not any more
                queue.resize(queue.busy + queue.waiting)
                del self._queues[endpoint.id]
            return None
        if queue is None:
            queue = self._queues[endpoint.id] = Slots(
                max_queue=self._max_queue,
                changed=_nobody_watches,
                clock=self._clock.monotonic,
                name=f"the endpoint '{endpoint.id}'",
            )
            queue.open(most)
        elif queue.capacity != most:
            queue.resize(most)
        return queue

    def queue_loads(self) -> tuple[QueueLoad, ...]:
        """Every endpoint that has such a bound and was called."""
        return tuple(
            QueueLoad(name, queue.busy, queue.waiting, queue.capacity) for name, queue in self._queues.items()
        )

    def waits(self) -> Mapping[str, float]:
        """Calls queued ahead of a new one, divided by the capacity, by endpoint where a call would wait."""
        return {
            name: (queue.waiting + 1) / queue.capacity
            for name, queue in self._queues.items()
            if queue.busy >= queue.capacity
        }


def _nobody_watches() -> None: ...
