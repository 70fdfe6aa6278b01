"""The manager of a cluster's pool: keeps the directory of replicas, and starts, evicts, scales and ends them.

One runs in a cluster, for all gateways. It decides and keeps count; :class:`Placer` acts, by Ray or in a test.
Calls do not pass through it: gateways lease at the replica itself. While the manager is away, replicas serve on,
and the next manager finds them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import structlog

from backends.base import Upstream
from backends.queueing import Need
from backends.workers.cluster.links import Link, ReplicaInfo, choose
from backends.workers.cluster.members import Member
from backends.workers.cluster.placing import Node
from backends.workers.cluster.replica import MANAGER
from backends.workers.cluster.roster import Roster
from backends.workers.cluster.scaling import Bounds, scale
from backends.workers.cluster.specs import ChannelAddress, ReplicaSpec
from backends.workers.control.channel import Channel
from backends.workers.control.codec import JsonValue
from backends.workers.control.service import PoolService
from backends.workers.pool import PoolSnapshot, WorkerView
from backends.workers.settings import WorkerSettings
from catalog.errors import Draining, ModelTemporarilyUnavailable, RoundhouseError, Unavailable
from catalog.model import Model

TRIES = 3
"""Nodes on which a replica's start is tried before the caller gets its error."""
START_WITHIN = 45.0
"""Seconds for a replica's program to listen; its model is loaded later."""
INTERVAL = 0.25
"""Seconds between two looks at the load of the replicas."""
NODES_EVERY = 1.0
LATELY = 10.0
"""Seconds for which a time to the first token counts."""


class Placer(Protocol):
    """Starts programs on the nodes of a cluster."""

    async def nodes(self) -> Sequence[Node]:
        """Return the nodes that live."""
        ...

    async def existing(self) -> Sequence[tuple[ReplicaSpec, ChannelAddress]]:
        """Return the replicas that an earlier manager has left."""
        ...

    async def start(self, spec: ReplicaSpec) -> ChannelAddress:
        """Start a replica on ``spec.node``, which grants it ``spec.amounts``; return its address.

        Raises WorkerFailed or Unavailable. A cancelled start leaves nothing behind.
        """
        ...

    async def end(self, replica: str) -> None:
        """End a replica at once, if there is one of this id."""
        ...


class ClusterManager:
    """The pool of all replicas, as the other processes of a fleet see one. Keep :meth:`run` running."""

    def __init__(
        self, placer: Placer, settings: WorkerSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._placer = placer
        self._settings = settings
        self._clock = clock
        self._roster = Roster(settings, clock)
        self._rows: dict[str, Model] = {}
        self._wanted: dict[str, Model] = {}
        self._chosen: dict[str, dict[str, Any]] = {}
        self._logs: dict[str, str] = {}
        self._starting: dict[str, asyncio.Task[Member]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._first_tokens: dict[str, tuple[float, float]] = {}
        self._gateways: set[Channel] = set()
        self._watcher: Callable[[], None] = lambda: None
        self._service = PoolService(self)
        self._ended = False
        self._log = structlog.get_logger("roundhouse.cluster")

    # ---- life

    async def start(self) -> None:
        """Learn the nodes, and take over the replicas of an earlier manager."""
        self._roster.nodes = tuple(await self._placer.nodes())
        await asyncio.gather(*(self._adopt(*each) for each in await self._placer.existing()))

    async def _adopt(self, spec: ReplicaSpec, address: ChannelAddress) -> None:
        member = self._roster.members[spec.id] = Member(spec, self._clock())
        self._rows.setdefault(spec.model.id, spec.model)
        try:
            await self._connect(member, address)
        except RoundhouseError:
            await self._forget(member)

    async def run(self) -> None:
        """Scale and tidy up until cancelled."""
        service = asyncio.create_task(self._service.run())
        looked = self._clock()
        try:
            while True:
                await asyncio.sleep(INTERVAL)
                if self._clock() - looked >= NODES_EVERY:
                    looked = self._clock()
                    self._look_at_nodes()
                self._scale()
        finally:
            self._ended = True
            service.cancel()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(service, *self._tasks, return_exceptions=True)
            for member in self._roster.members.values():
                if member.link is not None:
                    member.link.close()

    def offer(self, channel: Channel) -> None:
        """Register the operations on a gateway's channel."""

        async def replica(call: JsonValue) -> JsonValue:
            info = await self.replica(self._row(call["model"]), frozenset(call["avoid"]))
            return info.to_json()

        channel.answer("replica", replica)
        self._service.offer(channel)
        keep = channel.listener("model")

        def row(call: JsonValue) -> None:
            self._rows[call["id"]] = Model.model_validate(call)
            keep(call)

        channel.hear("model", row)
        self._gateways = {each for each in self._gateways if not each.closed.is_set()} | {channel}
        channel.tell("directory", self._directory())

    @property
    def has_replicas(self) -> bool:
        """Whether there are any."""
        return bool(self._roster.members)

    # ---- WorkerPool

    @asynccontextmanager
    async def lease(self, model: Model, need: Need) -> AsyncIterator[Upstream]:
        """Lease through this process: for a caller without a way to the replica."""
        await self.replica(model, frozenset())
        link = choose(member.link for member in self._roster.of(model.id) if member.link is not None)
        if link is None:
            raise Draining(f"The replica of '{model.id}' is stopping. Try again.", retry_after=1)
        async with link.pool.lease(model, need) as upstream:
            yield upstream

    def snapshot(self) -> PoolSnapshot:
        return self._roster.snapshot()

    async def load(
        self,
        model: Model,
        *,
        keep_alive: float | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> WorkerView:
        before = self._chosen.get(model.id)
        if options is not None:
            self._chosen[model.id] = dict(options)
        try:
            await self.replica(model, frozenset())
            members = [member for member in self._roster.of(model.id) if member.link is not None]
            await asyncio.gather(
                *(
                    member.link.pool.load(model, keep_alive=keep_alive, options=options, force=force)
                    for member in members
                    if member.link is not None
                )
            )
        except RoundhouseError:
            if options is not None:
                self._chosen.pop(model.id, None)
                if before is not None:
                    self._chosen[model.id] = before
            raise
        return next(view for view in self.snapshot().workers if view.replica == members[0].spec.id)

    def keep(self, model_id: str, seconds: float) -> None:
        for member in self._roster.of(model_id):
            if member.link is not None:
                member.link.pool.keep(model_id, seconds)

    async def unload(self, model_id: str, *, force: bool = False) -> bool:
        self._chosen.pop(model_id, None)
        members = self._roster.of(model_id)
        await asyncio.gather(*(self._leave(member, force=force) for member in members))
        return bool(members)

    async def log(self, model_id: str, *, lines: int = 200) -> str:
        members = self._roster.of(model_id)
        texts = []
        for member in members:
            with contextlib.suppress(RoundhouseError):
                if member.link is not None:
                    text = await member.link.pool.log(model_id, lines=lines)
                    texts.append(text if len(members) == 1 else f"==> {member.spec.id} <==\n{text}")
        if texts:
            return "\n".join(texts)
        return "\n".join(self._logs.get(model_id, "").splitlines()[-lines:])

    async def drain(self, deadline: float) -> None:
        """Do nothing: a gateway that leaves stops no worker of the others."""

    def want(self, models: Iterable[Model]) -> None:
        self._wanted = {model.id: model for model in models}

    def first_token(self, model_id: str, seconds: float) -> None:
        before, since = self._first_tokens.get(model_id, (seconds, 0.0))
        now = self._clock()
        if now - since > LATELY:
            before = seconds
        self._first_tokens[model_id] = before + 0.2 * (seconds - before), now

    def watch(self, changed: Callable[[], None]) -> None:
        self._watcher = changed

    # ---- replicas

    async def replica(self, model: Model, avoid: frozenset[str]) -> ReplicaInfo:
        """Return a replica of the model that is none of ``avoid``; one is started if necessary.

        Raises ModelTooLarge, ModelTemporarilyUnavailable, WorkerFailed, or Unavailable where all replicas live but
        the caller cannot reach them.
        """
        self._rows[model.id] = model
        ready = [member for member in self._roster.of(model.id) if member.link is not None and member.link.usable]
        link = choose(m.link for m in ready if m.link is not None and m.spec.id not in avoid)
        if link is not None:
            return link.info
        if len(ready) >= model.replicas.max:
            raise Unavailable(f"The node of '{model.id}' cannot be reached from this gateway.", retry_after=1)
        member = await asyncio.shield(self._start(model))
        return member.info

    def _start(self, model: Model) -> asyncio.Task[Member]:
        """The task that starts one more replica of the model; all who want one share it."""
        task = self._starting.get(model.id)
        if task is None:
            task = self._starting[model.id] = self._spawn(self._start_one(model))
            task.add_done_callback(lambda _: self._starting.pop(model.id, None))
        return task

    async def _start_one(self, model: Model) -> Member:
        for left in reversed(range(TRIES)):
            member = await self._roster.place(model, lambda member: self._spawn(self._leave(member)))
            try:
                async with asyncio.timeout(START_WITHIN):
                    await self._connect(member, await self._placer.start(member.spec))
            except (RoundhouseError, TimeoutError) as error:
                self._roster.suspect(member.spec.node)
                reason = error.message if isinstance(error, RoundhouseError) else "it took too long"
                self._log.warning("replica not started", model=model.id, node=member.spec.node, reason=reason)
                await self._forget(member)
                if left:
                    continue
                if isinstance(error, RoundhouseError):
                    raise
                raise ModelTemporarilyUnavailable(
                    f"No node started a worker of '{model.id}' within {START_WITHIN:g} s.", retry_after=5
                ) from None
            except asyncio.CancelledError:
                await self._forget(member)
                raise
            self._log.info("replica started", model=model.id, replica=member.spec.id, node=member.spec.node)
            if chosen := self._chosen.get(model.id):
                assert member.link is not None
                await member.link.pool.load(model, options=chosen)
            return member
        raise AssertionError("the last try returns or raises")

    async def _connect(self, member: Member, address: ChannelAddress) -> None:
        spec = member.spec
        info = ReplicaInfo(spec.id, spec.model.id, spec.node, address.host, address.port, spec.key)
        member.info = info
        member.link = await Link.open(
            info, MANAGER, silence=self._settings.cluster_silence, lost=lambda _: self._on_lost(member)
        )
        member.link.pool.changed = self._on_change
        self._on_change()
        self._publish()

    def _on_lost(self, member: Member) -> None:
        """Called at the end of a replica's connection, expected or not. Without this manager, replicas go on."""
        if self._ended:
            return
        if not member.leaving:
            spec = member.spec
            self._log.warning("replica lost", model=spec.model.id, replica=spec.id, node=spec.node)
            self._roster.suspect(member.spec.node)
        self._spawn(self._forget(member))

    async def _forget(self, member: Member) -> None:
        """End what is left of a replica; its resources count until that is done."""
        member.leaving = True
        if member.link is not None:
            member.link.leaving = True
        self._publish()
        with contextlib.suppress(RoundhouseError, TimeoutError):
            async with asyncio.timeout(START_WITHIN):
                await self._placer.end(member.spec.id)
        self._roster.members.pop(member.spec.id, None)
        member.gone.set()
        self._publish()
        self._on_change()

    async def _leave(self, member: Member, *, force: bool = False) -> None:
        """Drain a replica and end it. Returns when it is gone; its running calls end first, but for ``force``."""
        if not member.leaving and member.link is not None:
            member.leaving = member.link.leaving = True
            self._publish()
            with contextlib.suppress(RoundhouseError):
                text = await member.link.pool.log(member.spec.model.id, lines=400)
                self._logs[member.spec.model.id] = text[-65536:]
            with contextlib.suppress(RoundhouseError):
                await member.link.pool.drain(0 if force else self._settings.start_timeout)
            await self._forget(member)
        await member.gone.wait()

    # ---- scaling

    def _scale(self) -> None:
        """Start replicas that queues or bounds ask for; end those that are idle or whose worker was unloaded."""
        now = self._clock()
        placed = {member.spec.model.id for member in self._roster.members.values()}
        for row in [self._row(model_id) for model_id in placed | self._wanted.keys()]:
            members = [member for member in self._roster.of(row.id) if not member.leaving]
            for member in members:
                member.look(now)
                if row.replicas.min and member.stopped:
                    self._load_on(member, row)
                if member.memory:
                    self._roster.estimates.note(row.id, member.memory)
            staying = [member for member in members if not self._is_unloaded(row, member, now)]
            keep = row.keep_alive if row.keep_alive is not None else self._settings.keep_alive
            bounds = Bounds(
                row.replicas.min,
                row.replicas.max,
                self._settings.cluster_wait,
                None if keep is None or keep < 0 else keep,
            )
            decision = scale(
                [member.load() for member in staying],
                bounds,
                now,
                first_token=self._recent_first_token(row.id, now),
            )
            if decision.start and row.id not in self._starting:
                self._log.info("one more replica", model=row.id, replicas=len(staying))
                self._spawn(self._extend(row))
            for replica in decision.stop:
                self._spawn(self._leave(self._roster.members[replica]))

    def _recent_first_token(self, model_id: str, now: float) -> float | None:
        """The moving average of the seconds to the first token; None if none came of late."""
        seconds, at = self._first_tokens.get(model_id, (0.0, -LATELY))
        return seconds if now - at < LATELY else None

    def _is_unloaded(self, row: Model, member: Member, now: float) -> bool:
        """Whether its worker has been unloaded; such a replica is ended, as it holds resources for nothing."""
        if row.replicas.min or not member.unloaded(now):
            return False
        self._spawn(self._leave(member))
        return True

    async def _extend(self, model: Model) -> None:
        """Start one more replica and load the model there. Failures are logged: no caller waits for it."""
        try:
            self._load_on(await asyncio.shield(self._start(model)), model)
        except RoundhouseError as error:
            self._log.warning("no further replica", model=model.id, reason=error.message)

    def _load_on(self, member: Member, model: Model) -> None:
        """Load a model on its replica without a caller, as when its worker has died."""
        if member.loading is None:
            member.loading = self._spawn(self._load(member, model))

    async def _load(self, member: Member, model: Model) -> None:
        assert member.link is not None
        try:
            await member.link.pool.load(model)
        except RoundhouseError as error:
            self._log.warning("a replica has no worker", model=model.id, reason=error.message)
            await asyncio.sleep(error.retry_after or self._settings.cool_down)
        finally:
            member.loading = None

    def _look_at_nodes(self) -> None:
        async def look() -> None:
            with contextlib.suppress(RoundhouseError):
                nodes = tuple(await self._placer.nodes())
                if nodes != self._roster.nodes:
                    self._roster.nodes = nodes
                    self._on_change()

        self._spawn(look())

    # ---- parts

    def _row(self, model_id: str) -> Model:
        return self._wanted.get(model_id) or self._rows[model_id]

    def _directory(self) -> JsonValue:
        return [
            member.info.to_json()
            for member in self._roster.members.values()
            if not member.leaving and member.link is not None
        ]

    def _publish(self) -> None:
        directory = self._directory()
        for channel in self._gateways:
            channel.tell("directory", directory)

    def _on_change(self) -> None:
        self._roster.moved.set()
        self._watcher()

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, RoundhouseError):
            self._log.error("a task of the manager failed", exc_info=error)
