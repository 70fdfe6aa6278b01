"""The gateway's side of the control socket: a proxy of the worker pool in the parent process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from backends.base import Life, Upstream
from backends.queueing import Need
from backends.workers.control.channel import Channel
from backends.workers.control.codec import JsonValue, snapshot_from_json, upstream_from_json, view_from_json
from backends.workers.pool import PoolSnapshot, WorkerView
from catalog.errors import Unavailable
from catalog.model import Model

PATIENCE = 8.0
"""Seconds without an answer of the parent after which a wait for a lease is looked into, and then those that it
has to answer."""


def _no_answer() -> Unavailable:
    return Unavailable(
        "The process that runs the workers does not answer: it is stopped, or overloaded. Try again shortly; if "
        "that lasts, restart the server.",
        retry_after=5,
    )


def _nothing() -> None: ...


class RemotePool:
    """Implements :class:`backends.workers.pool.WorkerPool` over a channel to a
    :class:`backends.workers.control.service.PoolService`.

    The snapshot is the last one received, about 30 ms old at most; the parent decides on leases. A model's row is
    sent once and after each change; calls refer to it by its id.
    """

    def __init__(self, channel: Channel, *, elsewhere: bool = False) -> None:
        """``elsewhere``: the parent is on another machine, whose monotonic clock is another."""
        self._channel = channel
        self._elsewhere = elsewhere
        self.patience = PATIENCE
        self.silent = False
        """Whether the parent did not answer when it was asked last."""
        self.changed: Callable[[], None] = _nothing
        """Called after each new snapshot."""
        self._waiting: set[asyncio.Timeout] = set()
        self._watch: asyncio.Task[None] | None = None
        self._snapshot = PoolSnapshot()
        self._known: dict[str, Model] = {}
        self._lives: dict[int, Life] = {}
        channel.hear("snapshot", self._learn)
        channel.hear("ended", lambda number: self._lives.setdefault(number, Life()).end())

    async def start(self) -> None:
        """Fetch the first snapshot."""
        self._learn(await self._channel.call("snapshot"))

    @asynccontextmanager
    async def lease(self, model: Model, need: Need) -> AsyncIterator[Upstream]:
        if self.silent:
            raise _no_answer()
        self.introduce(model)
        async with AsyncExitStack() as held:
            with self._watched() as waiting:
                try:
                    async with waiting:
                        lease = self._channel.hold("lease", {"model": model.id, "need": need})
                        upstream = await held.enter_async_context(lease)
                except TimeoutError:
                    raise _no_answer() from None
            number = upstream.pop("life")
            life = None if number is None else self._lives.setdefault(number, Life())
            yield upstream_from_json(upstream, life)

    @contextmanager
    def _watched(self) -> Iterator[asyncio.Timeout]:
        """A timeout that ends when the parent is found not to answer. Queues and loads may take any time."""
        waiting = asyncio.timeout(None)
        self._waiting.add(waiting)
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_parent(), name="watch of the parent")
        try:
            yield waiting
        finally:
            self._waiting.discard(waiting)

    async def _watch_parent(self) -> None:
        """Ask the parent for a sign of life while a lease is waited for, and until it answers again."""
        try:
            while self._waiting or self.silent:
                await asyncio.sleep(self.patience)
                if not (self._waiting or self.silent):
                    return
                try:
                    async with asyncio.timeout(self.patience):
                        await self._channel.call("snapshot")
                    self.silent = False
                except TimeoutError:
                    self.silent = True
                    now = asyncio.get_running_loop().time()
                    for waiting in self._waiting:
                        waiting.reschedule(now)
        except Unavailable:
            return  # the parent is gone: every wait ends with that
        finally:
            self._watch = None

    def snapshot(self) -> PoolSnapshot:
        return self._snapshot

    async def load(
        self,
        model: Model,
        *,
        keep_alive: float | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> WorkerView:
        self.introduce(model)
        call = {"model": model.id, "keep_alive": keep_alive, "options": options, "force": force}
        return view_from_json(await self._channel.call("load", call))

    def keep(self, model_id: str, seconds: float) -> None:
        self._channel.tell("keep", {"model": model_id, "seconds": seconds})

    async def unload(self, model_id: str, *, force: bool = False) -> bool:
        return bool(await self._channel.call("unload", {"model": model_id, "force": force}))

    async def log(self, model_id: str, *, lines: int = 200) -> str:
        return str(await self._channel.call("log", {"model": model_id, "lines": lines}))

    async def drain(self, deadline: float) -> None:
        await self._channel.call("drain", {"deadline": deadline})

    def want(self, models: Iterable[Model]) -> None:
        self._channel.tell("wanted", [model.model_dump(mode="json") for model in models])

    def first_token(self, model_id: str, seconds: float) -> None:
        self._channel.tell("first token", {"model": model_id, "seconds": seconds})

    def introduce(self, model: Model) -> None:
        """Send the row, if it is new, before a call that refers to it."""
        known = self._known.get(model.id)
        if known is not model and known != model:
            self._channel.tell("model", model.model_dump(mode="json"))
        self._known[model.id] = model

    def _learn(self, snapshot: JsonValue) -> None:
        later = time.monotonic() - snapshot["at"] if self._elsewhere else 0.0
        self._snapshot = snapshot_from_json(snapshot["of"], later)
        self.changed()
