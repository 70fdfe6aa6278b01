"""Decides how many replicas a model has, by its queue and its idleness. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """The load of one replica. Times are of the monotonic clock; ``idle_since`` is None while it is in use.

    ``waits_since`` is the time since which requests have waited for a slot of it without a pause; None if none do.
    """

    replica: str
    serving: bool
    slots: int
    busy: int
    queued: int
    idle_since: float | None
    waits_since: float | None


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a model: replicas, seconds that requests may wait, and idle seconds of a replica too many.

    ``first_token`` is the median time to the first token of late in seconds, None if unknown; ``usual`` the one
    without a queue. ``keep`` is None where idle replicas stay for ever.
    """

    least: int
    most: int
    wait: float
    keep: float | None


@dataclass(frozen=True, slots=True)
class Scale:
    """The decision: replicas to start, and those to stop."""

    start: int = 0
    stop: tuple[str, ...] = ()


def scale(loads: Sequence[Load], bounds: Bounds, now: float, *, first_token: float | None = None) -> Scale:
    """Decide on replicas to start or stop.

    - Fewer than ``least``: the missing ones are started.
    - One more is started once every replica serves and requests have waited on each of them for ``wait`` seconds,
      or once the time to the first token exceeds ``wait`` while all slots are taken. One at a time: the next
      decision sees what it has brought.
    - Above ``least``, the replica that has been idle the longest is stopped after ``keep`` seconds.
    """
    if len(loads) < bounds.least:
        return Scale(start=bounds.least - len(loads))
    if 0 < len(loads) < bounds.most and all(load.serving for load in loads):
        waited = all(load.waits_since is not None and now - load.waits_since >= bounds.wait for load in loads)
        full = all(load.busy >= load.slots for load in loads)
        if waited or (full and first_token is not None and first_token > bounds.wait):
            return Scale(start=1)
    if len(loads) > bounds.least and bounds.keep is not None:
        idle = [load for load in loads if load.idle_since is not None and now - load.idle_since >= bounds.keep]
        if idle:
            return Scale(stop=(min(idle, key=lambda load: load.idle_since or 0.0).replica,))
    return Scale()
