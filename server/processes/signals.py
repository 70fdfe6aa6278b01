"""Signals of a gateway process: SIGTERM and SIGINT drain and stop it, SIGHUP reloads its settings."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import structlog
import uvicorn

from catalog.errors import RoundhouseError
from server.edge.services import Services
from server.processes.reload import SettingsLoader, apply_settings


@contextmanager
def handle_signals(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Call the handler of each signal in the running event loop until the block ends."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


class Reloads:
    """Runs one reload at a time. Any that are asked for meanwhile are one more, which follows: the file may have
    changed since it was read.
    """

    def __init__(self, reload: Callable[[], Awaitable[None]]) -> None:
        self._reload = reload
        self._asked = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Reload now, or once the reload that is under way has ended."""
        self._asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._asked:
            self._asked = False
            await self._reload()

    async def wait_finished(self) -> None:
        """Wait until no reload is under way or asked for."""
        if self._task is not None:
            await self._task


class SignalHandlers:
    """Drains, stops and reloads one server. Without ``reload``, SIGHUP does nothing."""

    def __init__(self, server: uvicorn.Server, services: Services, reload: SettingsLoader | None) -> None:
        self._server = server
        self._services = services
        self._load_settings = reload
        self._draining: asyncio.Task[None] | None = None
        self._reloads = Reloads(self._reload)
        self._log = structlog.get_logger("server.processes.run")

    def installed(self) -> AbstractContextManager[None]:
        """Handle the process's signals while the block runs."""
        return handle_signals({signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self.reload})

    def stop(self) -> None:
        """Drain, then stop. A second call stops at once."""
        if self._draining is None:
            self._services.in_flight.begin_drain()
            self._draining = asyncio.get_running_loop().create_task(self._drain())
        else:
            self._server.force_exit = self._server.should_exit = True

    async def _drain(self) -> None:
        seconds = self._services.settings.server.drain
        self._log.info("draining", in_flight=self._services.in_flight.count, seconds=seconds)
        try:
            if not await self._services.in_flight.drained(seconds):
                self._log.warning("ended answers that took too long to drain")
        finally:
            self._server.should_exit = True

    def reload(self) -> None:
        """Load and apply the settings. An invalid setting is logged and nothing changes."""
        if self._load_settings is not None:
            self._reloads.ask()

    async def _reload(self) -> None:
        assert self._load_settings is not None
        try:
            changed = await apply_settings(self._services, self._load_settings())
        except RoundhouseError as error:
            self._log.error("settings not reloaded", reason=error.message)
        else:
            self._log.info("settings reloaded", changed=changed)

    async def wait_finished(self) -> None:
        """Wait until a drain or reload in progress has finished."""
        if self._draining is not None:
            await self._draining
        await self._reloads.wait_finished()
