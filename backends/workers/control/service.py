"""The parent's side of the control socket: offers its pool to gateway processes, over one channel each.

Operations (see :mod:`backends.workers.control.channel` for the wire)::

    lease    {"model": ID, "need": {...}}   -> upstream; held until "end", or until the socket closes
    load     {"model": ID, "keep_alive": S, "options": {...}, "force": B} -> view
    unload   {"model": ID, "force": B}      -> bool
    log      {"model": ID, "lines": N}      -> text          drain   {"deadline": S}           -> null
    snapshot null                           -> snapshot
    note     "model" {row}     from the gateway: the row to use for this id from now on
    note     "keep" {"model": ID, "seconds": S}   from the gateway: the idle time of a loaded model
    note     "wanted" [{row}, ...]  from the gateway: the models to keep running
    note     "first token" {"model": ID, "seconds": S}   from the gateway: how long a caller waited for it
    note     "ended" N         to the gateways: the server of leases with this life is gone
    note     "snapshot" {...}  to the gateways, after changes, at most every ``BETWEEN`` seconds
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from backends.base import Life
from backends.queueing import Need, Priority
from backends.workers.control.channel import Channel
from backends.workers.control.codec import JsonValue, dumps, upstream_to_json
from backends.workers.pool import KeepsReplicas, PoolSnapshot, WorkerPool
from catalog.errors import ModelNotFound
from catalog.model import Model

BETWEEN = 0.02
"""Shortest time between two snapshots in seconds; changes in between are combined."""
AT_LEAST = 1.0
"""Seconds after which a snapshot is compared without a notification: measured memory changes without one."""


class WatchedPool(WorkerPool, Protocol):
    """A pool that notifies a callback of changes."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` after every change; it must not block."""
        ...


class PoolService:
    """Offers ``pool`` on channels: call :meth:`offer` for each gateway, and keep :meth:`run` running."""

    def __init__(self, pool: WatchedPool) -> None:
        self._pool = pool
        self._channels: set[Channel] = set()
        self._changed = asyncio.Event()
        self._sent = b""
        pool.watch(self._changed.set)

    def offer(self, channel: Channel) -> None:
        """Register the operations on a gateway's channel, before it is opened."""
        rows, lives = _Rows(), _Lives(channel)
        pool = self._pool

        @asynccontextmanager
        async def lease(call: JsonValue) -> AsyncIterator[JsonValue]:
            need = call["need"]
            wanted = Need(need["slots"], need["flow"], Priority(need["priority"]))
            async with pool.lease(rows[call["model"]], wanted) as upstream:
                yield {**upstream_to_json(upstream), "life": lives.number(upstream.life)}

        async def load(call: JsonValue) -> JsonValue:
            view = await pool.load(
                rows[call["model"]],
                keep_alive=call["keep_alive"],
                options=call["options"],
                force=call["force"],
            )
            self._send()  # so that the caller's next snapshot contains the loaded model
            return view

        async def unload(call: JsonValue) -> JsonValue:
            unloaded = await pool.unload(call["model"], force=call["force"])
            self._send()
            return unloaded

        async def log(call: JsonValue) -> JsonValue:
            return await pool.log(call["model"], lines=call["lines"])

        async def drain(call: JsonValue) -> JsonValue:
            await pool.drain(call["deadline"])
            self._send()

        async def snapshot(_: JsonValue) -> JsonValue:
            return {"at": time.monotonic(), "of": pool.snapshot()}

        def wanted(call: JsonValue) -> None:
            if isinstance(pool, KeepsReplicas):
                pool.want([Model.model_validate(row) for row in call])

        def first_token(call: JsonValue) -> None:
            if isinstance(pool, KeepsReplicas):
                pool.first_token(call["model"], call["seconds"])

        channel.hear("model", rows.keep)
        channel.hear("first token", first_token)
        channel.hear("wanted", wanted)
        channel.hear("keep", lambda call: pool.keep(call["model"], call["seconds"]))
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
            channel.tell("snapshot", {"at": time.monotonic(), "of": snapshot})
        # Forget it if a channel was behind, so that the next round sends it even without a change.
        self._sent = encoded if len(reading) == len(self._channels) else b""


class _Lives:
    """The lives of servers that one gateway makes calls to, by numbers; it is told of each one's end."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers: dict[Life, int] = {}
        self._count = 0

    def number(self, life: Life | None) -> int | None:
        if life is None:
            return None
        number = self._numbers.get(life)
        if number is None:
            self._count += 1
            number = self._numbers[life] = self._count
            life.add(lambda: self._end(life))
        return number

    def _end(self, life: Life) -> None:
        self._channel.tell("ended", self._numbers.pop(life))


class _Rows:
    """The catalogue rows that one gateway has sent."""

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
