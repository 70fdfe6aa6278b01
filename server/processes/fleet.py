"""Several gateway processes on one machine (``serve --workers N``) and the parent process that supervises them.

The parent binds the sockets, runs the one :class:`backends.workers.supervisor.Supervisor`, and starts N
processes of :mod:`server.processes.gateway_process`. They inherit the listening socket: an idle process accepts
the next connection, and one that dies loses only connections that it had accepted. Each reaches the workers over a
control socket (:mod:`backends.workers.control.channel`); their shared state is the SQLite file or Redis.
The parent answers no HTTP request, so no request can crash it.

A gateway process that dies, or does not answer the parent for ``server.liveness`` seconds, is replaced, with
exponential backoff. SIGTERM and SIGINT drain every gateway, then the
workers stop; a second signal stops them at once. SIGHUP loads the settings and sends them to every gateway. If the
parent dies in any way, its gateways and workers exit with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Iterable
from enum import Enum
from pathlib import PurePath
from typing import Any

import structlog
from pydantic import SecretStr

from backends.workers.control.channel import Channel
from backends.workers.control.codec import JsonValue
from backends.workers.control.service import PoolService
from backends.workers.engines.registry import builtin_engines
from catalog.errors import ConfigurationError, RoundhouseError
from catalog.store.store import Store
from server.models.workers import own_workers
from server.processes.data_folder import published
from server.processes.gateway_child import GatewayChild
from server.processes.greeting import greet
from server.processes.reload import SettingsLoader, applicable
from server.processes.scrape import FleetMetrics
from server.processes.signals import Reloads, handle_signals
from server.processes.sockets import bind_admin, bind_public, loop_factory, url_of
from server.settings import Settings

BACKOFF, BACKOFF_LIMIT = 0.25, 10.0
"""Seconds before a gateway that died is restarted: the first time, and at most after doubling."""
BACKOFF_RESET = 30.0
"""Seconds of running after which the next restart waits only :data:`BACKOFF` again."""
PEER_TIMEOUT = 2.0
"""Seconds that a gateway has to answer another one's question."""
RELOAD_TIMEOUT = 30.0
"""Seconds that a gateway has to apply settings; one that needs longer is replaced by one that starts with them."""
KILL_AFTER = 15.0
"""Seconds after the drain's deadline at which a gateway that still runs is killed."""


def run_fleet(settings: Settings, *, reload: SettingsLoader | None = None) -> None:
    """Serve with ``settings.server.processes`` gateway processes until a signal stops them.

    Raises ConfigurationError when an address cannot be bound, or with the first gateway's reason not to start.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind_public(settings))
        admin = bind_admin(settings)
        if admin is not None:
            stack.enter_context(admin)
        runner = stack.enter_context(asyncio.Runner(loop_factory=loop_factory()))
        runner.run(Fleet(settings, listener, admin, reload).run())


class Fleet:
    """The gateway processes and what they share. :meth:`run` starts, supervises and stops all of it."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        admin: socket.socket | None,
        reload: SettingsLoader | None,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._admin = admin
        self._load_settings = reload
        self._gateways: set[GatewayChild] = set()
        self._stopping = asyncio.Event()
        self._reloads = Reloads(self._apply_settings)
        self._metrics = FleetMetrics(self._gateways)
        self._log = structlog.get_logger("server.processes.fleet")

    async def run(self) -> None:
        """Run until a signal stops it; gateways end first, workers last."""
        store = Store(self._settings.data_dir / "models")
        engines = builtin_engines(self._settings.workers.python)
        handlers = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGHUP: self._reload}
        async with own_workers(self._settings, store, engines, self._metrics.own) as pool:
            self._metrics.own.watch(pool)
            service = PoolService(pool)
            background = [asyncio.create_task(service.run()), asyncio.create_task(self._metrics.run())]
            try:
                with handle_signals(handlers):
                    await self._supervise_all(service)
            finally:
                await _cancel(background)
                # Before the workers stop, so that no client waits in the accept queue meanwhile.
                self._listener.close()
        self._log.info("stopped")

    # ---- gateway processes

    async def _supervise_all(self, service: PoolService) -> None:
        """Start every gateway and keep them running until all are to stop.

        The first starts alone: it creates the state's file, and reports a wrong setting once instead of N times.
        """
        first = await self._start(service)
        await first.wait_started()
        if first.failure is not None and not self._stopping.is_set():
            await self._remove(first)
            raise ConfigurationError(first.failure)
        others = [await self._start(service) for _ in range(self._settings.server.processes - 1)]
        gateways = (first, *others)
        supervisors = [asyncio.create_task(self._supervise(service, gateway)) for gateway in gateways]
        announcing = asyncio.create_task(self._log_listening(gateways))
        try:
            await asyncio.gather(*supervisors)
        finally:
            await _cancel([announcing, *supervisors])
            await asyncio.gather(*(self._remove(gateway) for gateway in tuple(self._gateways)))

    async def _supervise(self, service: PoolService, gateway: GatewayChild) -> None:
        """Wait for a gateway's end and restart it with backoff, until all are to stop."""
        pause = BACKOFF
        while True:
            began = time.monotonic()
            await self._wait_for_exit(gateway)
            if self._stopping.is_set():
                return
            pause = BACKOFF if time.monotonic() - began > BACKOFF_RESET else pause
            reason = gateway.failure or "It exited with status 0."
            self._log.error("gateway process ended", pid=gateway.pid, reason=reason, again_in=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
                    return
            pause = min(BACKOFF_LIMIT, pause * 2)
            self._metrics.restarts.inc()
            gateway = await self._start(service)

    async def _start(self, service: PoolService) -> GatewayChild:
        channel = Channel()

        async def settings(_: JsonValue) -> JsonValue:
            return to_gateway(self._settings)

        async def metrics(_: JsonValue) -> JsonValue:
            return await self._metrics.render()

        async def peers(question: JsonValue) -> JsonValue:
            return next(iter(await self._ask_others(gateway, question)), None)

        async def all_peers(question: JsonValue) -> JsonValue:
            return await self._ask_others(gateway, question)

        service.offer(channel)
        channel.answer("settings", settings)
        channel.answer("metrics", metrics)
        channel.answer("peers", peers)
        channel.answer("all peers", all_peers)
        gateway = await GatewayChild.start(
            channel, self._listener, self._admin, liveness=self._settings.server.liveness
        )
        channel.hear("samples", lambda samples: self._metrics.report(gateway.pid, samples))
        self._gateways.add(gateway)
        if self._stopping.is_set():
            gateway.terminate()
        return gateway

    async def _ask_others(self, asking: GatewayChild, question: JsonValue) -> list[JsonValue]:
        """The answers of the other gateways that know one."""
        others = [other for other in self._gateways if other is not asking and other.ready.is_set()]
        answers = await asyncio.gather(*(self._ask(other, question) for other in others))
        return [answer for answer in answers if answer is not None]

    async def _ask(self, gateway: GatewayChild, question: JsonValue) -> JsonValue:
        with contextlib.suppress(RoundhouseError, TimeoutError):
            async with asyncio.timeout(PEER_TIMEOUT):
                return await gateway.channel.call("peer", question)
        return None

    async def _wait_for_exit(self, gateway: GatewayChild) -> None:
        """Wait until it exits; once all are to stop, at most until :data:`KILL_AFTER`, then kill it."""
        exited = asyncio.create_task(gateway.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({exited, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():
                await asyncio.wait({exited}, timeout=self._settings.server.drain + KILL_AFTER)
        finally:
            stopping.cancel()
            exited.cancel()
            await self._remove(gateway)

    async def _remove(self, gateway: GatewayChild) -> None:
        """End its process, channel and leases; its counters remain."""
        await gateway.kill()
        self._gateways.discard(gateway)
        self._metrics.ended(gateway.pid)

    async def _log_listening(self, gateways: Iterable[GatewayChild]) -> None:
        """Tell the address when all serve, and leave it in the data folder until this is cancelled."""
        await asyncio.gather(*(gateway.wait_started() for gateway in gateways))
        url, admin = url_of(self._listener), None if self._admin is None else url_of(self._admin)
        self._log.info("listening", url=url, admin=admin, processes=self._settings.server.processes)
        with published(self._settings.data_dir, url, admin):
            greet(self._settings, url)
            await asyncio.Event().wait()

    # ---- signals

    def _stop(self) -> None:
        """SIGTERM, SIGINT: every gateway drains; the second time it stops at once."""
        if not self._stopping.is_set():
            self._log.info("draining", seconds=self._settings.server.drain, processes=len(self._gateways))
        self._stopping.set()
        for gateway in self._gateways:
            gateway.terminate()

    def _reload(self) -> None:
        """SIGHUP: load the settings."""
        if self._load_settings is not None:
            self._reloads.ask()

    async def _apply_settings(self) -> None:
        """Send the settings to every gateway, also to those started later. A refusal is logged."""
        assert self._load_settings is not None
        try:
            fresh = self._load_settings()
            changed = applicable(self._settings, fresh)
            document = to_gateway(fresh)
            serving = [gateway for gateway in self._gateways if gateway.ready.is_set()]
            for gateway in serving:  # the first to refuse keeps the others as they are
                await self._reload_gateway(gateway, document)
        except RoundhouseError as error:
            self._log.error("settings not reloaded", reason=error.message)
        else:
            started_before = [gateway for gateway in self._gateways if gateway not in serving]
            self._settings = fresh
            self._log.info("settings reloaded", processes=len(serving), changed=changed)
            for gateway in started_before:
                await gateway.wait_started()
                if gateway.ready.is_set():
                    await self._reload_gateway(gateway, document)

    async def _reload_gateway(self, gateway: GatewayChild, document: JsonValue) -> None:
        """Have one gateway apply settings. Raises its refusal; one that hangs or dies is replaced."""
        try:
            async with asyncio.timeout(RELOAD_TIMEOUT):
                await gateway.channel.call("reload", document)
        except TimeoutError:
            gateway.kill_for(f"It did not apply new settings within {RELOAD_TIMEOUT:g} seconds.")
        except RoundhouseError:
            if not gateway.channel.closed.is_set():
                raise


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel the tasks and wait until they have ended."""
    tasks = tuple(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def to_gateway(settings: Settings) -> JsonValue:
    """Settings and their sources as JSON, secrets in plain text: only to be sent over the control socket."""
    return {"settings": _to_json(settings.model_dump()), "sources": settings.sources}


def _to_json(value: Any) -> JsonValue:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case Enum():
            return value.value
        case PurePath():
            return str(value)
        case dict():
            return {_to_json(name): _to_json(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_to_json(item) for item in value]
        case _:
            return value
