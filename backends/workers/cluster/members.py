"""A replica as the manager sees it: what it holds, how it is used, and whether it is to be ended."""

from __future__ import annotations

import asyncio

from backends.workers.cluster.links import Link, ReplicaInfo, placed
from backends.workers.cluster.placing import Holding
from backends.workers.cluster.scaling import Load
from backends.workers.cluster.specs import ReplicaSpec
from backends.workers.pool import WorkerState, WorkerView

FRESH = 15.0
"""Seconds for which a replica without a loaded model is kept: a caller comes, or a failure is remembered."""

_UNLOADED = (WorkerState.STOPPED, WorkerState.FAILED)


class Member:
    """One replica, from the moment that resources are reserved for it until it is gone."""

    info: ReplicaInfo

    def __init__(self, spec: ReplicaSpec, now: float) -> None:
        self.spec = spec
        self.link: Link | None = None
        self.leaving = False
        self.gone = asyncio.Event()
        self.loading: asyncio.Task[None] | None = None
        """A load that no caller waits for."""
        self._seen_in_use = now
        self._waits_since: float | None = None

    @property
    def worker(self) -> WorkerView | None:
        """The worker, once there was one."""
        return None if self.link is None else self.link.view()

    @property
    def serving(self) -> bool:
        worker = self.worker
        return worker is not None and worker.state is WorkerState.READY

    @property
    def memory(self) -> int:
        worker = self.worker
        return 0 if worker is None else worker.memory

    @property
    def _idle(self) -> bool:
        worker = self.worker
        if worker is None or worker.state is WorkerState.STARTING:
            return False
        return not worker.busy and not worker.queued

    @property
    def _used_at(self) -> float:
        """The end of its last use: a short one is over before the next look."""
        worker = self.worker
        return max(self._seen_in_use, (worker.last_used if worker is not None else None) or 0.0)

    def look(self, now: float) -> None:
        """Note what its last snapshot shows."""
        worker = self.worker
        if worker is None:
            return
        if not self._idle:
            self._seen_in_use = now
        if not worker.queued or worker.busy < worker.slots:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now

    @property
    def stopped(self) -> bool:
        """Whether it waits for a caller to load the model."""
        worker = self.worker
        return self.link is not None and (worker is None or worker.state in _UNLOADED)

    def unloaded(self, now: float) -> bool:
        """Whether it has had no process and no caller for a while."""
        worker = self.worker
        if self.link is None or (worker is not None and worker.state not in _UNLOADED):
            return False
        return (worker is None or self._idle) and now - self._used_at >= FRESH

    def load(self) -> Load:
        """Describe its load for scaling."""
        worker = self.worker
        return Load(
            replica=self.spec.id,
            serving=self.serving,
            slots=1 if worker is None else worker.slots,
            busy=0 if worker is None else worker.busy,
            queued=0 if worker is None else worker.queued,
            idle_since=self._used_at if self._idle else None,
            waits_since=self._waits_since,
        )

    def holding(self) -> Holding:
        """Describe what it holds for placing."""
        idle = self._idle and self.link is not None
        return Holding(
            self.spec.id,
            self.spec.model.id,
            self.spec.node,
            self.spec.amounts,
            idle,
            self.leaving,
            self._used_at,
        )

    def view(self, node: str) -> WorkerView:
        """Describe its worker, or that it is about to start."""
        worker = self.worker
        if worker is None:
            state = WorkerState.STARTING if self.link is None else WorkerState.STOPPED
            model = self.spec.model
            worker = WorkerView(model=model.id, engine=model.engine or "", device="", state=state)
        draining = self.leaving and worker.state is WorkerState.READY
        return placed(worker, node, self.spec.id, WorkerState.DRAINING if draining else worker.state)
