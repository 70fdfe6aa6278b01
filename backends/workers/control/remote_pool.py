"""The gateway's side of the control socket: a proxy of the worker pool in the parent process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backends.base import Upstream
from backends.queueing import Need
from backends.workers.control.channel import Channel
from backends.workers.control.codec import JsonValue, snapshot_from_json, upstream_from_json, view_from_json
from backends.workers.pool import PoolSnapshot, WorkerView
from catalog.model import Model


class RemotePool:
    """Implements :class:`backends.workers.pool.WorkerPool` over a channel to a
    :class:`backends.workers.control.service.PoolService`.

    The snapshot is the last one received, about 30 ms old at most; the parent decides on leases. A model's row is
    sent once and after each change; calls refer to it by its id.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._snapshot = PoolSnapshot()
        self._known: dict[str, Model] = {}
        channel.hear("snapshot", self._learn)

    async def start(self) -> None:
        """Fetch the first snapshot."""
        self._learn(await self._channel.call("snapshot"))

    @asynccontextmanager
    async def lease(self, model: Model, need: Need) -> AsyncIterator[Upstream]:
        self._introduce(model)
        async with self._channel.hold("lease", {"model": model.id, "need": need}) as upstream:
            yield upstream_from_json(upstream)

    def snapshot(self) -> PoolSnapshot:
        return self._snapshot

    async def load(self, model: Model, *, keep_alive: float | None = None) -> WorkerView:
        self._introduce(model)
        return view_from_json(await self._channel.call("load", {"model": model.id, "keep_alive": keep_alive}))

    def keep(self, model_id: str, seconds: float) -> None:
        self._channel.tell("keep", {"model": model_id, "seconds": seconds})

    async def unload(self, model_id: str, *, force: bool = False) -> bool:
        return bool(await self._channel.call("unload", {"model": model_id, "force": force}))

    async def log(self, model_id: str, *, lines: int = 200) -> str:
        return str(await self._channel.call("log", {"model": model_id, "lines": lines}))

    async def drain(self, deadline: float) -> None:
        await self._channel.call("drain", {"deadline": deadline})

    def _introduce(self, model: Model) -> None:
        known = self._known.get(model.id)
        if known is not model and known != model:
            self._channel.tell("model", model.model_dump(mode="json"))
        self._known[model.id] = model

    def _learn(self, snapshot: JsonValue) -> None:
        self._snapshot = snapshot_from_json(snapshot)
