"""Where a model goes and what has to leave for it: a pure function of the memory as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class HostDevice(Protocol):
    """A device of this machine: ``cpu``, ``cuda:0``, ``mps``; ``memory`` in bytes."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def memory(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Room:
    """A device and its budget for workers, bytes."""

    id: str
    budget: int


@dataclass(frozen=True, slots=True)
class Tenant:
    """A worker that takes memory: ``idle`` ones may be evicted, ``leaving`` ones are on their way out."""

    model: str
    device: str
    memory: int
    idle: bool
    leaving: bool
    last_used: float


@dataclass(frozen=True, slots=True)
class Place:
    """It fits on this device now."""

    device: str


@dataclass(frozen=True, slots=True)
class Evict:
    """It fits on this device once these have stopped, least recently used first."""

    device: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """It will fit when workers that are leaving have left, or busy ones were idle; ``models`` are those busy."""

    device: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TooLarge:
    """No device could hold it, even empty."""

    need: int
    largest: int


Decision = Place | Evict | Wait | TooLarge


def decide(
    need: int, *, allowed: tuple[str, ...], rooms: tuple[Room, ...], tenants: tuple[Tenant, ...]
) -> Decision:
    """Where ``need`` bytes go. ``allowed`` are device ids in order of preference.

    A device where it fits as things are comes first, in that order; then the one where the fewest bytes of idle
    workers have to leave, then the first where waiting helps. A busy worker is never evicted.
    """
    budgets = {room.id: room.budget for room in rooms}
    candidates = [device for device in allowed if budgets.get(device, 0) >= need]
    if not candidates:
        return TooLarge(need, max((budgets.get(device, 0) for device in allowed), default=0))

    evictions: list[tuple[int, Evict]] = []
    for device in candidates:
        free = budgets[device] - sum(t.memory for t in tenants if t.device == device)
        if need <= free:
            return Place(device)
        here = [t for t in tenants if t.device == device]
        free += sum(t.memory for t in here if t.leaving)
        victims = _least_recently_used(here, need - free)
        if need > free and victims is not None:
            evictions.append((sum(v.memory for v in victims), Evict(device, tuple(v.model for v in victims))))
        elif need <= free:
            return Wait(device, ())
    if evictions:
        return min(evictions, key=lambda item: item[0])[1]
    device = candidates[0]
    busy = [t for t in tenants if t.device == device and not t.leaving and not t.idle]
    return Wait(device, tuple(t.model for t in sorted(busy, key=lambda t: t.last_used)))


def _least_recently_used(tenants: list[Tenant], short: int) -> list[Tenant] | None:
    victims: list[Tenant] = []
    for tenant in sorted((t for t in tenants if t.idle and not t.leaving), key=lambda t: t.last_used):
        if short <= 0:
            break
        victims.append(tenant)
        short -= tenant.memory
    return victims if short <= 0 else None
