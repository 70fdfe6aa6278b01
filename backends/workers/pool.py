"""The worker pool as other packages see it: a lease of a ready one, and a snapshot of all."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from backends.base import Upstream
from catalog.model import Model


class WorkerState(StrEnum):
    """The states of a worker, as in its owner task."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Priority(StrEnum):
    """Whose turn it is in a worker's queue; interactive goes first, and batch is never starved."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Need:
    """What a lease asks of a worker.

    ``slots`` is 0 for a call that decodes nothing (tokenise); ``flow`` is the caller that the fair queue
    counts by (a key's id).
    """

    slots: int = 1
    flow: str = ""
    priority: Priority = Priority.INTERACTIVE


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker as it is now; seconds are of the monotonic clock, bytes resident."""

    model: str
    engine: str
    device: str
    state: WorkerState
    pid: int | None = None
    memory: int = 0
    slots: int = 1
    busy: int = 0
    queued: int = 0
    restarts: int = 0
    started_at: float | None = None
    last_used: float | None = None
    expires_at: float | None = None
    load_seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device: its budget for workers and what is in use, bytes."""

    id: str
    name: str
    total: int
    budget: int
    used: int


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """All workers and devices at one moment."""

    workers: tuple[WorkerView, ...] = ()
    devices: tuple[DeviceView, ...] = ()


class WorkerPool(Protocol):
    """Runs models on devices. A supervisor in this process, in the parent process, or a cluster's scheduler."""

    def lease(self, model: Model, need: Need) -> AbstractAsyncContextManager[Upstream]:
        """A ready worker with a free slot, loaded first if need be; given back when the block ends.

        Raises EngineMissing, ModelUnavailable (not pulled, does not fit), WorkerFailed, QueueFull, Draining.
        Cancelling the wait leaves no trace: a load that nobody waits for any more is cancelled.
        """
        ...

    def snapshot(self) -> PoolSnapshot:
        """The world as the router sees it; no I/O."""
        ...

    async def load(self, model: Model, *, keep_alive: float | None = None) -> WorkerView:
        """Load now and return when ready."""
        ...

    async def unload(self, model_id: str) -> bool:
        """Drain and stop; False if it was not loaded."""
        ...

    async def log(self, model_id: str, *, lines: int = 200) -> str:
        """The end of the worker's log, also after its death."""
        ...

    async def drain(self, deadline: float) -> None:
        """Take no new lease, wait up to ``deadline`` seconds for those in use, then stop every worker."""
        ...
