"""The gateway's side of a cluster: a worker pool whose workers are on the nodes of a Ray cluster.

Ray itself runs in other processes: :mod:`backends.workers.cluster.find` finds or starts the manager and ends. So
Ray's native code, which ends its process when a cluster is lost for long, cannot touch a gateway.

A lease goes straight to a replica over a connection that is kept, and is counted there. The manager is asked only
where no replica is known.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import structlog

from backends.base import Upstream
from backends.queueing import Need
from backends.workers.cluster.links import Link, ReplicaInfo, choose, placed
from backends.workers.cluster.replica import GATEWAY
from backends.workers.control.channel import Channel
from backends.workers.control.codec import JsonValue
from backends.workers.control.network import SILENCE, beat, dial
from backends.workers.control.remote_pool import RemotePool
from backends.workers.pool import PoolSnapshot, WorkerState, WorkerView, of_cluster
from catalog.errors import Draining, RoundhouseError, Unavailable
from catalog.model import Model

PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Seconds between tries to reach the manager; the last is repeated."""
MANAGER_WITHIN = 60.0
"""Seconds that a call waits for the manager, where it needs it."""
CLOSES_WITHIN = 2.0
"""Seconds for the tasks of a pool that closes."""
MOVES = 5
"""Replicas that a call is sent to in turn when each is just ending."""


@dataclass(frozen=True, slots=True)
class ManagerAddress:
    """The address of the manager's channel and its key."""

    host: str
    port: int
    key: str


Find = Callable[[], Awaitable[ManagerAddress]]
"""Finds the manager, or starts it. Raises RoundhouseError."""


class ClusterPool:
    """Implements :class:`backends.workers.pool.WorkerPool`. Use it as an async context manager."""

    def __init__(self, find: Find, *, silence: float = SILENCE) -> None:
        """``silence`` is the time in seconds after which a replica or the manager counts as lost."""
        self._find = find
        self._silence = silence
        self._links: dict[str, Link] = {}
        self._opening: dict[str, asyncio.Task[Link]] = {}
        self._listed: dict[str, ReplicaInfo] = {}
        self._manager: Channel | None = None
        self._managed: RemotePool | None = None
        self._reachable = asyncio.Event()
        self._wanted: tuple[Model, ...] = ()
        self._changed: Callable[[], None] = lambda: None
        self._snapshot: PoolSnapshot | None = None
        self._draining = False
        self._released = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.fault: str | None = "the cluster has not been reached yet"
        """The reason why the manager cannot be reached; None while it can."""
        self._log = structlog.get_logger("roundhouse.cluster")

    async def __aenter__(self) -> Self:
        self._spawn(self._keep_manager())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. Workers stay for other gateways, and end after a grace without any."""
        self._draining = True
        ending = tuple(self._tasks)
        for task in ending:
            task.cancel()
        if ending:  # what waits for a cluster that is gone must not hold up the end of the gateway
            await asyncio.wait(ending, timeout=CLOSES_WITHIN)
        for link in tuple(self._links.values()):
            link.close()
        if self._manager is not None:
            self._manager.close()

    # ---- WorkerPool

    @asynccontextmanager
    async def lease(self, model: Model, need: Need) -> AsyncIterator[Upstream]:
        avoid: set[str] = set()
        async with AsyncExitStack() as held:
            for left in reversed(range(MOVES)):
                if self._draining:
                    raise Draining("Roundhouse is shutting down.", retry_after=5)
                known = choose(link for link in self._of(model.id) if link.info.id not in avoid)
                link = known or await self._place(model, avoid)
                link.granted += 1
                held.callback(self._release, link)
                try:
                    upstream = await held.enter_async_context(link.pool.lease(model, need))
                    break
                except (Draining, Unavailable) as error:
                    # A replica that ends, or whose connection was lost, has not begun with this call.
                    if not isinstance(error, Draining) and not link.channel.closed.is_set():
                        raise
                    if not left:
                        raise
                    avoid.add(link.info.id)
            yield replace(upstream, life=link.life)

    def snapshot(self) -> PoolSnapshot:
        if self._snapshot is None:
            self._snapshot = self._compose()
        return self._snapshot

    async def load(
        self,
        model: Model,
        *,
        keep_alive: float | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> WorkerView:
        pool = await self._manager_pool()
        return await pool.load(model, keep_alive=keep_alive, options=options, force=force)

    def keep(self, model_id: str, seconds: float) -> None:
        for link in self._of(model_id):
            link.pool.keep(model_id, seconds)

    async def unload(self, model_id: str, *, force: bool = False) -> bool:
        return await (await self._manager_pool()).unload(model_id, force=force)

    async def log(self, model_id: str, *, lines: int = 200) -> str:
        return await (await self._manager_pool()).log(model_id, lines=lines)

    async def drain(self, deadline: float) -> None:
        """Refuse new leases and wait for those of this gateway; the workers stay for the others."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                while any(link.granted for link in self._links.values()):
                    self._released.clear()
                    await self._released.wait()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` after every change of a replica or a worker's state; it must not block."""
        self._changed = changed

    def want(self, models: Iterable[Model]) -> None:
        """Have the manager keep as many replicas of these models as their rows say at least."""
        self._wanted = tuple(models)
        if self._managed is not None:
            self._managed.want(self._wanted)

    def first_token(self, model_id: str, seconds: float) -> None:
        if self._managed is not None:
            self._managed.first_token(model_id, seconds)

    # ---- replicas

    def _of(self, model_id: str) -> list[Link]:
        return [link for link in self._links.values() if link.info.model == model_id]

    def _release(self, link: Link) -> None:
        link.granted -= 1
        self._released.set()

    async def _place(self, model: Model, avoid: set[str]) -> Link:
        """Have the manager start a replica, or name one that this gateway has not heard of; connect to it."""
        for left in reversed(range(MOVES)):
            pool = await self._manager_pool()
            pool.introduce(model)
            channel = self._manager
            assert channel is not None
            try:
                found = await channel.call("replica", {"model": model.id, "avoid": sorted(avoid)})
            except Unavailable:
                if not left or not channel.closed.is_set():
                    raise
                continue  # the manager is gone: ask the next one
            info = ReplicaInfo.from_json(found)
            try:
                return await asyncio.shield(self._open(info))
            except Unavailable:
                avoid.add(info.id)
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _open(self, info: ReplicaInfo) -> asyncio.Future[Link]:
        link = self._links.get(info.id)
        if link is not None and link.usable:
            ready: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
            ready.set_result(link)
            return ready
        task = self._opening.get(info.id)
        if task is None:
            task = self._opening[info.id] = self._spawn(self._open_link(info))
            task.add_done_callback(lambda _: self._opening.pop(info.id, None))
        return task

    async def _open_link(self, info: ReplicaInfo) -> Link:
        link = await Link.open(info, GATEWAY, silence=self._silence, lost=self._on_lost)
        self._links[info.id] = link
        link.pool.changed = self._on_change
        self._on_change()
        return link

    def _on_lost(self, link: Link) -> None:
        if self._links.get(link.info.id) is link:
            del self._links[link.info.id]
        self._released.set()
        self._on_change()
        if not self._draining and link.info.id in self._listed:
            self._spawn(self._reopen(link.info))

    async def _reopen(self, info: ReplicaInfo) -> None:
        """Connect again for as long as the manager lists the replica: only this gateway may have lost it."""
        for pause in (*PAUSES, *([PAUSES[-1]] * 10)):
            await asyncio.sleep(pause)
            if info.id not in self._listed:
                return
            with contextlib.suppress(RoundhouseError):
                await self._open(info)
                return

    def _learn(self, directory: JsonValue) -> None:
        """Take the manager's directory: connect to new replicas, and send no more calls to those that left."""
        self._listed = {each["id"]: ReplicaInfo.from_json(each) for each in directory}
        for link in self._links.values():
            link.leaving = link.info.id not in self._listed
        for info in self._listed.values():
            if info.id not in self._links and info.id not in self._opening:
                self._spawn(self._try_open(info))
        self._on_change()

    async def _try_open(self, info: ReplicaInfo) -> None:
        with contextlib.suppress(RoundhouseError):
            await self._open(info)

    # ---- the manager

    async def _manager_pool(self) -> RemotePool:
        """Return the manager's pool once it can be reached. Raises Unavailable."""
        try:
            async with asyncio.timeout(MANAGER_WITHIN):
                await self._reachable.wait()
        except TimeoutError:
            raise Unavailable(f"The cluster cannot be reached: {self.fault}", retry_after=5) from None
        assert self._managed is not None
        return self._managed

    async def _keep_manager(self) -> None:
        """Stay connected to the manager; find it, or its successor, again after each loss."""
        failures = 0
        while True:
            try:
                address = await self._find()
                channel = await self._connect(address)
            except RoundhouseError as error:
                if self.fault != error.message:
                    self._log.warning("the cluster cannot be reached", reason=error.message)
                self.fault = error.message
                await asyncio.sleep(PAUSES[min(failures, len(PAUSES) - 1)])
                failures += 1
                continue
            failures, self.fault = 0, None
            self._log.info("connected to the cluster", manager=f"{address.host}:{address.port}")
            try:
                await beat(channel, self._silence)
            finally:
                channel.abort()
                self._reachable.clear()
                self._manager = self._managed = None
                self.fault = "its manager is gone"
                self._on_change()
            self._log.warning("the cluster's manager is gone")

    async def _connect(self, address: ManagerAddress) -> Channel:
        made: list[RemotePool] = []

        def prepare(channel: Channel) -> None:
            made.append(RemotePool(channel, elsewhere=True))
            channel.hear("directory", self._learn)

        channel = await dial(address.host, address.port, address.key, role=GATEWAY, prepare=prepare)
        self._manager, self._managed = channel, made[0]
        self._managed.changed = self._on_change
        self._managed.want(self._wanted)
        await self._managed.start()
        self._reachable.set()
        return channel

    # ---- parts

    def _compose(self) -> PoolSnapshot:
        """The manager's view of all, with the fresher one of each replica that this gateway is connected to."""
        managed = PoolSnapshot() if self._managed is None else self._managed.snapshot()
        views = {view.replica: view for view in managed.workers}
        for link in self._links.values():
            own = link.view()
            if own is not None:
                known = views.get(link.info.id)
                state = own.state if known is None or known.state is not WorkerState.DRAINING else known.state
                node = link.info.node if known is None else known.node
                views[link.info.id] = placed(own, node, link.info.id, state)
        return of_cluster(views.values(), managed.devices, managed.nodes)

    def _on_change(self) -> None:
        self._snapshot = None
        self._changed()

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, RoundhouseError):
            self._log.error("a task of the cluster's pool failed", exc_info=error)
