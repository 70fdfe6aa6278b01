"""The interface of a worker pool: leases of ready workers, and a snapshot of all."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from backends.base import Upstream
from backends.queueing import Need
from catalog.model import Model


class WorkerState(StrEnum):
    """The states of a worker."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """The state of one worker. Times are seconds of the monotonic clock, ``memory`` is in bytes.

    ``queued_batch`` are those of ``queued`` that interactive requests overtake. ``context`` is in tokens per
    request, ``options`` are those of the engine. In a cluster, ``node`` is the name of the worker's machine, and
    ``replica`` tells the workers of a model apart.
    """

    model: str
    engine: str
    device: str
    state: WorkerState
    pid: int | None = None
    memory: int = 0
    slots: int = 1
    busy: int = 0
    queued: int = 0
    queued_batch: int = 0
    restarts: int = 0
    started_at: float | None = None
    last_used: float | None = None
    expires_at: float | None = None
    load_seconds: float | None = None
    error: str | None = None
    context: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    node: str = ""
    replica: str = ""


@dataclass(frozen=True, slots=True)
class DeviceView:
    """The memory of one device in bytes: in total, the budget for workers, and in use by workers."""

    id: str
    name: str
    total: int
    budget: int
    used: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A machine of a cluster: its resources by name, in total and in use by workers; memory in bytes."""

    id: str
    name: str
    address: str
    total: Mapping[str, float] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """All workers and devices at one moment, and the machines of a cluster."""

    workers: tuple[WorkerView, ...] = ()
    devices: tuple[DeviceView, ...] = ()
    nodes: tuple[NodeView, ...] = ()

    def process(self, model: str) -> int | None:
        """Return the id of the model's process, ready or not; None without one."""
        return next((worker.pid for worker in self.workers if worker.model == model), None)


class WorkerPool(Protocol):
    """Runs models on devices: a supervisor in this process or in its parent, or a cluster's scheduler."""

    def lease(self, model: Model, need: Need) -> AbstractAsyncContextManager[Upstream]:
        """Lease a ready worker with a free slot until the block ends; the model is loaded first if necessary.

        Raises EngineMissing, ModelUnavailable (not pulled, does not fit), WorkerFailed, QueueFull, Draining.
        A cancelled wait leaves the queue at once; a load without any waiting request is cancelled.
        """
        ...

    def snapshot(self) -> PoolSnapshot:
        """Return the present state of all workers and devices; no I/O."""
        ...

    async def load(
        self,
        model: Model,
        *,
        keep_alive: float | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> WorkerView:
        """Load the model and return when it is ready.

        ``keep_alive`` is the time in seconds after which the idle worker is unloaded: never if negative; None
        keeps the setting. ``options`` take the place of those of the row with the same names, until the model is
        unloaded or loaded with others; a worker with other options is drained first, or with ``force`` ends its
        calls. Those of a load that fails are dropped. Raises as :meth:`lease`.
        """
        ...

    async def unload(self, model_id: str, *, force: bool = False) -> bool:
        """Drain and stop the model's worker; False if it was not loaded. ``force`` ends running calls."""
        ...

    def keep(self, model_id: str, seconds: float) -> None:
        """Set the idle time of a loaded model until it is unloaded; a negative one is for ever. It does not wait.

        0 unloads the model once its present calls have ended.
        """
        ...

    async def log(self, model_id: str, *, lines: int = 200) -> str:
        """Return the last lines of the worker's log, also after its end."""
        ...

    async def drain(self, deadline: float) -> None:
        """Refuse new leases, wait up to ``deadline`` seconds for those in use, then stop every worker."""
        ...
