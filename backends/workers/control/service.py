"""The owner's side of the control socket: a pool offered to gateway processes, one channel each.

Operations (see :mod:`backends.workers.control.channel` for the wire)::

    lease    {"model": ID, "need": {...}}   -> upstream; held: given back with "end", or when the socket closes
    load     {"model": ID, "keep_alive": S} -> view          unload  {"model": ID}             -> bool
    log      {"model": ID, "lines": N}      -> text          drain   {"deadline": S}           -> null
    snapshot null                           -> snapshot
    note     "model" {row}     from the gateway: the row that its later calls mean by this id
    note     "snapshot" {...}  to the gateways, after changes, at most every ``BETWEEN`` seconds
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from backends.workers.control.channel import Channel
from backends.workers.control.codec import JsonValue, dumps, upstream_to_json
from backends.workers.pool import Need, PoolSnapshot, Priority, WorkerPool
from catalog.errors import ModelNotFound
from catalog.model import Model

BETWEEN = 0.02
"""Seconds between two snapshots that are sent, at least: what comes in between is sent as one."""
AT_LEAST = 1.0
"""Seconds after which it is looked whether anything (memory, say) has changed without a word."""


class WatchedPool(WorkerPool, Protocol):
    """A pool that says when it has changed."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` after every change; it returns at once."""
        ...


class PoolService:
    """Offers ``pool`` on channels: :meth:`offer` for each gateway, :meth:`run` beside them."""

    def __init__(self, pool: WatchedPool) -> None:
        self._pool = pool
        self._channels: set[Channel] = set()
        self._changed = asyncio.Event()
        self._sent = b""
        pool.watch(self._changed.set)

    def offer(self, channel: Channel) -> None:
        """Answer this gateway's calls; before the channel is opened."""
        rows = _Rows()
        pool = self._pool

        @asynccontextmanager
        async def lease(call: JsonValue) -> AsyncIterator[JsonValue]:
            need = call["need"]
            wanted = Need(need["slots"], need["flow"], Priority(need["priority"]))
            async with pool.lease(rows[call["model"]], wanted) as upstream:
                yield upstream_to_json(upstream)

        async def load(call: JsonValue) -> JsonValue:
            view = await pool.load(rows[call["model"]], keep_alive=call["keep_alive"])
            self._send()  # so that who asked for it finds it in the snapshot
            return view

        async def unload(call: JsonValue) -> JsonValue:
            unloaded = await pool.unload(call["model"])
            self._send()
            return unloaded

        async def log(call: JsonValue) -> JsonValue:
            return await pool.log(call["model"], lines=call["lines"])

        async def drain(call: JsonValue) -> JsonValue:
            await pool.drain(call["deadline"])
            self._send()

        async def snapshot(_: JsonValue) -> JsonValue:
            return pool.snapshot()

        channel.hear("model", rows.keep)
        channel.serve("lease", lease)
        for operation in (load, unload, log, drain, snapshot):
            channel.answer(operation.__name__, operation)
        self._channels.add(channel)

    async def run(self) -> None:
        """Send snapshots until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AT_LEAST):
                    await self._changed.wait()
            await asyncio.sleep(BETWEEN)
            self._changed.clear()
            self._send()

    def _send(self) -> None:
        self._channels = {channel for channel in self._channels if not channel.closed.is_set()}
        snapshot: PoolSnapshot = self._pool.snapshot()
        encoded = dumps(snapshot)
        if encoded == self._sent:
            return
        reading = [channel for channel in self._channels if not channel.behind]
        for channel in reading:
            channel.tell("snapshot", snapshot)
        # Who is behind is told next time, also if nothing changes until then.
        self._sent = encoded if len(reading) == len(self._channels) else b""


class _Rows:
    """The rows of the catalogue that one gateway has spoken of."""

    def __init__(self) -> None:
        self._rows: dict[str, Model] = {}

    def keep(self, row: JsonValue) -> None:
        model = Model.model_validate(row)
        self._rows[model.id] = model

    def __getitem__(self, model_id: str) -> Model:
        row = self._rows.get(model_id)
        if row is None:
            raise ModelNotFound(model_id)
        return row
