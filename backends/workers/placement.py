"""Decides on which device a model is loaded and which idle workers are evicted for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from catalog.errors import ConfigurationError


class HostDevice(Protocol):
    """A device of this machine: ``cpu``, ``cuda:0``, ``mps``; ``memory`` in bytes."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def memory(self) -> int: ...


@dataclass(frozen=True, slots=True)
class DeviceBudget:
    """A device and its memory budget for workers, in bytes."""

    device: str
    size: int


@dataclass(frozen=True, slots=True)
class Tenant:
    """A worker that uses memory. An ``idle`` one may be evicted; a ``leaving`` one is already stopping."""

    model: str
    device: str
    memory: int
    idle: bool
    leaving: bool
    last_used: float


@dataclass(frozen=True, slots=True)
class Place:
    """The model fits on this device now."""

    device: str


@dataclass(frozen=True, slots=True)
class Evict:
    """The model fits on this device once ``models`` (least recently used first) have stopped."""

    device: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """The model fits once leaving workers have stopped, or the busy ones, ``models``, have become idle."""

    device: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The model exceeds the budget of every device; bytes."""

    need: int
    largest: int


Decision = Place | Evict | Wait | TooLarge


def check_memory(budgets: Mapping[str, int], devices: Sequence[HostDevice]) -> None:
    """Raises ConfigurationError for a budget (``workers.memory``) of a device that is not here."""
    here = [device.id for device in devices]
    absent = next((device for device in budgets if device not in here), None)
    if absent is not None:
        raise ConfigurationError(
            f"Invalid setting 'workers.memory.{absent}': there is no such device here. The devices are "
            f"{', '.join(here)}."
        )


def decide(
    need: int, *, allowed: tuple[str, ...], budgets: tuple[DeviceBudget, ...], tenants: tuple[Tenant, ...]
) -> Decision:
    """Decide where to load a model of ``need`` bytes. ``allowed`` are device ids in order of preference.

    The first allowed device with enough free memory is taken, or waited for if leaving workers are about to free
    enough; else the one where the fewest bytes are evicted; else the first where waiting for busy workers helps. A
    busy worker is never evicted.
    """
    sizes = {budget.device: budget.size for budget in budgets}
    candidates = [device for device in allowed if sizes.get(device, 0) >= need]
    if not candidates:
        return TooLarge(need, max((sizes.get(device, 0) for device in allowed), default=0))

    evictions: list[tuple[int, Evict]] = []
    for device in candidates:
        free = sizes[device] - sum(t.memory for t in tenants if t.device == device)
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
