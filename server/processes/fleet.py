"""Several gateway processes of one machine (``serve --workers N``), and the parent that owns what they share.

The parent binds the sockets, runs the one :class:`backends.workers.supervisor.Supervisor`, and starts N
processes of :mod:`server.processes.gateway_process`, which inherit the listening socket: an idle one takes the
next connection, and one that dies takes none along that it had not accepted. Each reaches the workers over a
control socket (:mod:`backends.workers.control.channel`); the state they share is the SQLite file or Redis. The
parent answers no request, so nothing that a client sends can end it.

A gateway that dies is started again, with a pause that doubles. SIGTERM and SIGINT drain every gateway, then
the workers stop; again, and they stop at once. SIGHUP reads the settings and gives them to every gateway. If
the parent dies, however it does, its gateways and workers die with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import PurePath
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import SecretStr

from backends.workers.control.channel import Channel
from backends.workers.control.codec import JsonValue
from backends.workers.control.service import PoolService
from backends.workers.engines.registry import builtin_engines
from catalog.errors import ConfigurationError, RoundhouseError
from catalog.store.store import Store
from server.assembly import own_workers
from server.observability.metrics import Metrics
from server.processes.gateway_child import Child
from server.processes.scrape import Book, export
from server.processes.sockets import Reload, bind, bind_admin, loop_factory, url_of
from server.settings import Settings

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
STEADY = 30.0
"""Seconds after which a gateway that dies is started again as if it were the first time."""
TO_END = 15.0
"""Seconds beyond the drain's limit after which a gateway that still runs is killed."""
COLLECT_EVERY = 5.0
ANSWER_WITHIN = 2.0


def run_fleet(settings: Settings, *, reload: Reload | None = None) -> None:
    """Serve with ``settings.server.processes`` processes until told to stop.

    Raises ConfigurationError when that is impossible: an address in use, or what the first gateway says.
    """
    server = settings.server
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind(server.host, server.port, server.backlog))
        admin = bind_admin(settings)
        if admin is not None:
            stack.enter_context(admin)
        runner = stack.enter_context(asyncio.Runner(loop_factory=loop_factory()))
        runner.run(Fleet(settings, listener, admin, reload).run())


class Fleet:
    """The parent. ``run`` is all its life."""

    def __init__(
        self, settings: Settings, listener: socket.socket, admin: socket.socket | None, reload: Reload | None
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._admin = admin
        self._reload = reload
        self._children: set[Child] = set()
        self._stopping = asyncio.Event()
        self._reloading: asyncio.Task[None] | None = None
        self._book = Book()
        self._metrics = Metrics()
        self._restarts = count_processes(
            self._metrics.registry, lambda: sum(child.ready.is_set() for child in self._children)
        )
        self._log = structlog.get_logger("server.processes.fleet")

    async def run(self) -> None:
        """Start everything, and keep it until a signal stops it; then end gateways first, workers last."""
        store = Store(self._settings.data_dir / "models")
        engines = builtin_engines(self._settings.workers.python)
        async with own_workers(self._settings, store, engines, self._metrics) as pool:
            self._metrics.watch(pool)
            service = PoolService(pool)
            helpers = [asyncio.create_task(service.run()), asyncio.create_task(self._collect())]
            try:
                with self._signals():
                    await self._keep_all(service)
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)
                self._listener.close()  # so that nobody waits in its queue while the workers stop
        self._log.info("stopped")

    # ---- gateways

    async def _keep_all(self, service: PoolService) -> None:
        """The first alone: it makes the state's file, and says what is wrong with the settings, once."""
        first = await self._start(service)
        await first.settled()
        if first.failure is not None and not self._stopping.is_set():
            await self._end(first)
            raise ConfigurationError(first.failure)
        others = [await self._start(service) for _ in range(self._settings.server.processes - 1)]
        seats = [asyncio.create_task(self._keep(service, child)) for child in (first, *others)]
        announcing = asyncio.create_task(self._announce((first, *others)))
        try:
            await asyncio.gather(*seats)
        finally:
            announcing.cancel()
            for seat in seats:
                seat.cancel()
            await asyncio.gather(*seats, return_exceptions=True)
            await asyncio.gather(*(self._end(child) for child in tuple(self._children)))

    async def _keep(self, service: PoolService, child: Child) -> None:
        """One gateway, and the next one when it dies, until all are to stop."""
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            await self._until_exit(child)
            if self._stopping.is_set():
                return
            pause = FIRST_PAUSE if time.monotonic() - began > STEADY else pause
            reason = child.failure or "It was told to."
            self._log.error("gateway process ended", pid=child.pid, reason=reason, again_in=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
                    return
            pause = min(LONGEST_PAUSE, pause * 2)
            self._restarts.inc()
            child = await self._start(service)

    async def _start(self, service: PoolService) -> Child:
        channel = Channel()

        async def settings(_: JsonValue) -> JsonValue:
            return revealed(self._settings)

        async def metrics(_: JsonValue) -> JsonValue:
            return await self._scrape()

        service.offer(channel)
        channel.answer("settings", settings)
        channel.answer("metrics", metrics)
        child = await Child.start(channel, self._listener, self._admin)
        channel.hear("samples", lambda samples: self._book.report(child.pid, samples))
        self._children.add(child)
        if self._stopping.is_set():
            child.terminate()
        return child

    async def _until_exit(self, child: Child) -> None:
        """Wait for its end; when all are to stop, only as long as that may take."""
        ended = asyncio.create_task(child.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await asyncio.wait({ended}, timeout=self._settings.server.drain + TO_END)
        finally:
            stopping.cancel()
            ended.cancel()
            await self._end(child)

    async def _end(self, child: Child) -> None:
        """Nothing of it is left: process, channel, leases; what it had counted stays."""
        await child.kill()
        self._children.discard(child)
        self._book.ended(child.pid)

    async def _announce(self, children: Iterable[Child]) -> None:
        """One line when all serve."""
        await asyncio.gather(*(child.settled() for child in children))
        self._log.info(
            "listening",
            url=url_of(self._listener),
            admin=None if self._admin is None else url_of(self._admin),
            processes=self._settings.server.processes,
        )

    # ---- signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._read_again,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        """Each gateway drains; told again, it stops at once."""
        if not self._stopping.is_set():
            self._log.info("draining", seconds=self._settings.server.drain, processes=len(self._children))
        self._stopping.set()
        for child in self._children:
            child.terminate()

    def _read_again(self) -> None:
        if self._reload is not None and (self._reloading is None or self._reloading.done()):
            self._reloading = asyncio.create_task(self._reloaded(self._reload))

    async def _reloaded(self, read: Reload) -> None:
        """Every gateway takes the new settings, or says why not; those started later get them too."""
        try:
            changed = read()
            document = revealed(changed)
            serving = [child for child in self._children if child.ready.is_set()]
            await asyncio.gather(*(child.channel.call("reload", document) for child in serving))
        except RoundhouseError as error:
            self._log.error("settings not reloaded", reason=error.message)
        else:
            self._settings = changed
            self._log.info("settings reloaded", processes=len(serving))

    # ---- metrics

    async def _scrape(self) -> str:
        await self._ask_all()
        return self._book.total((export(self._metrics.registry),)).decode()

    async def _collect(self) -> None:
        while True:
            await asyncio.sleep(COLLECT_EVERY)
            await self._ask_all()

    async def _ask_all(self) -> None:
        await asyncio.gather(*(self._ask(child) for child in tuple(self._children) if child.ready.is_set()))

    async def _ask(self, child: Child) -> None:
        """Its samples; the last ones stand when it does not answer."""
        with contextlib.suppress(RoundhouseError, TimeoutError):
            async with asyncio.timeout(ANSWER_WITHIN):
                samples = await child.channel.call("samples")
            if child in self._children:
                self._book.report(child.pid, samples)


def count_processes(registry: CollectorRegistry, serving: Callable[[], int]) -> Counter:
    """Measure how many gateways serve; the counter given back is of those that were started again."""
    running = Gauge(
        "roundhouse_gateway_processes", "Gateway processes that serve, where there are several", registry=registry
    )
    running.set_function(serving)
    return Counter(
        "roundhouse_gateway_restarts",
        "Gateway processes that died and were started again, where there are several",
        registry=registry,
    )


def revealed(settings: Settings) -> JsonValue:
    """Settings as JSON with their secrets, for a gateway process; they cross the control socket only."""
    return _plain(settings.model_dump())


def _plain(value: Any) -> JsonValue:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case Enum():
            return value.value
        case PurePath():
            return str(value)
        case dict():
            return {_plain(name): _plain(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case _:
            return value
