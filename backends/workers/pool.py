"""The interface of a worker pool: leases of ready workers, and a snapshot of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

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
    merged: tuple[WorkerView, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def models(self) -> tuple[WorkerView, ...]:
        """One view for each model: its worker, or in a cluster all of its replicas together."""
        return self.workers if self.merged is None else self.merged

    def process(self, model: str) -> int | None:
        """Return the id of the model's process, ready or not; None without one.

        In a cluster it is a number that changes with any of its processes.
        """
        if self.merged is None:
            return next((worker.pid for worker in self.workers if worker.model == model), None)
        return hash(frozenset((worker.replica, worker.pid) for worker in self.workers if worker.model == model))


def of_cluster(
    workers: Iterable[WorkerView], devices: tuple[DeviceView, ...], nodes: tuple[NodeView, ...]
) -> PoolSnapshot:
    """Make a cluster's snapshot, in which a model may have several workers."""
    listed = tuple(workers)
    by_model: dict[str, list[WorkerView]] = {}
    for view in listed:
        by_model.setdefault(view.model, []).append(view)
    return PoolSnapshot(listed, devices, nodes, tuple(_together(views) for views in by_model.values()))


def _together(views: Sequence[WorkerView]) -> WorkerView:
    """Replicas of a model as one worker: the first that is ready, with the slots, calls and memory of all."""
    ready = [view for view in views if view.state is WorkerState.READY]
    if len(views) == 1 or not ready:
        return views[0]
    return replace(
        ready[0],
        memory=sum(view.memory for view in ready),
        slots=sum(view.slots for view in ready),
        busy=sum(view.busy for view in ready),
        queued=sum(view.queued for view in ready),
        queued_batch=sum(view.queued_batch for view in ready),
        restarts=sum(view.restarts for view in views),
        started_at=min((view.started_at for view in ready if view.started_at is not None), default=None),
        last_used=max((view.last_used for view in ready if view.last_used is not None), default=None),
    )


@runtime_checkable
class KeepsReplicas(Protocol):
    """A pool that keeps workers of some models running, as their rows say."""

    def want(self, models: Iterable[Model]) -> None:
        """Keep as many workers of these models, and of no others, as their rows say at least. It does not wait."""
        ...

    def first_token(self, model_id: str, seconds: float) -> None:
        """Take note of how long a caller waited for the first token. It does not wait."""
        ...


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
