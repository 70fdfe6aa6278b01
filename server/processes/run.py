"""Runs the gateway in this process: socket, signals, graceful stop. (Several: :mod:`server.processes.fleet`.)

SIGTERM and SIGINT drain: readiness is false at once, new requests are refused with Retry-After, streams end in
their own time until the deadline, and past it each is told. A second SIGINT stops at once. SIGHUP reads the
settings again and drops nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from catalog.errors import ConfigurationError, RoundhouseError
from server.app import OpenRuntime, create_app
from server.edge.auth import Keys
from server.edge.services import Services
from server.edge.uvicorn_protocol import protocol_for
from server.observability.logging import configure_logging
from server.processes.shared_listener import SharedListener
from server.processes.sockets import Reload, bind, bind_admin, loop_factory, url_of
from server.scope import ADMIN_DOOR
from server.settings import Settings

GC_THRESHOLD = 20_000
"""Objects made, less those freed, between two rounds of the garbage collector."""


def run(settings: Settings, *, reload: Reload | None = None, open_runtime: OpenRuntime | None = None) -> int:
    """Serve until told to stop; the process's exit status. ``reload`` reads the settings again on SIGHUP.

    ``open_runtime`` is as in :func:`server.app.create_app`; several processes build their own.

    What makes it impossible to start is one line on standard error and status 1.
    """
    configure_logging(settings.log)
    try:
        check_data_dir(settings.data_dir)
        if settings.server.processes > 1:
            from server.processes.fleet import run_fleet

            settle_memory()
            assert open_runtime is None, "gateway processes build their own houses"
            run_fleet(settings, reload=reload)
            return 0
        app = create_app(settings, open_runtime=open_runtime)
        listener = bind(settings.server.host, settings.server.port, settings.server.backlog)
        with listener, asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(app, settings, listener, reload=reload))
    except RoundhouseError as error:
        print(f"roundhouse: {error.message}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def serve(
    app: FastAPI,
    settings: Settings,
    listener: socket.socket,
    *,
    admin_listener: socket.socket | None = None,
    reload: Reload | None = None,
    listening: Callable[[], None] | None = None,
) -> None:
    """Serve ``app`` on a listening socket until a signal has stopped it.

    ``listening`` is given by a process that shares the socket with others: it is called when this one is about
    to take requests, instead of a line in the log. ``admin_listener`` is as in :func:`administration`.
    """
    log = structlog.get_logger("server.processes.run")
    async with app.router.lifespan_context(app):
        server = GatewayServer(uvicorn_config(app, settings), shared=listening is not None)
        stop = Stopping(server, app.state.services, reload)
        with stop.signals():
            async with administration(app, settings, admin_listener) as admin_url:
                if listening is None:
                    log.info("listening", url=url_of(listener), admin=admin_url, version=app.version)
                else:
                    listening()
                settle_memory()
                await server.serve(sockets=[listener])
        await stop.finished()
    log.info("stopped")


def settle_memory() -> None:
    """Take what start-up made out of the garbage collector's rounds, and make them rarer.

    A request leaves some hundred objects that live as long as its trace; with Python's own threshold of 700
    the collector would walk them, and all modules, many times a second, which requests in flight would feel.
    The command line has stopped it for the time of the start; here it runs again. What garbage the start left (two
    thousand small objects) is kept: to look for it would take 80 ms before the first request.
    """
    gc.freeze()
    gc.enable()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


class GatewayServer(uvicorn.Server):
    """uvicorn's server, without its signals: it would close streams without a word."""

    def __init__(self, config: uvicorn.Config, *, shared: bool = False) -> None:
        """``shared``: other processes listen on the same sockets."""
        super().__init__(config)
        self.listening = asyncio.Event()
        self._shared = shared

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then tell who waits for it."""
        await super().startup([] if self._shared else sockets)
        if self._shared:
            self.servers += [SharedListener(one, self._protocol) for one in sockets or ()]  # type: ignore[misc]
        self.listening.set()

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to :class:`Stopping`."""
        yield

    @property
    def url(self) -> str:
        """Where it listens."""
        return url_of(self.servers[0].sockets[0])


@asynccontextmanager
async def administration(
    app: FastAPI, settings: Settings, listener: socket.socket | None = None
) -> AsyncIterator[str | None]:
    """The second listener, when the settings ask for one: its address, or ``None``. It ends with the block.

    The same app answers there; only there do admin routes exist. ``listener`` is one that is bound already.
    Raises ConfigurationError as :func:`bind`.
    """
    listener = listener or bind_admin(settings)
    if listener is None:
        yield None
        return

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ADMIN_DOOR] = True
        await app(scope, receive, send)

    with listener:
        server = GatewayServer(uvicorn_config(door, settings))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await server.listening.wait()
            yield server.url
        finally:
            server.should_exit = True
            await task


class Stopping:
    """What the process's signals do."""

    def __init__(self, server: GatewayServer, services: Services, reload: Reload | None) -> None:
        self._server = server
        self._services = services
        self._reload = reload
        self._drain: asyncio.Task[None] | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("server.processes.run")

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Handle signals within the block."""
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self.reload}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Drain, then stop; asked again, stop now."""
        if self._drain is None:
            self._services.in_flight.begin_drain()
            self._drain = asyncio.get_running_loop().create_task(self._drained())
        else:
            self._server.force_exit = self._server.should_exit = True

    async def _drained(self) -> None:
        seconds = self._services.settings.server.drain
        self._log.info("draining", in_flight=self._services.in_flight.count, seconds=seconds)
        try:
            if not await self._services.in_flight.drained(seconds):
                self._log.warning("ended answers that took too long to drain")
        finally:
            self._server.should_exit = True

    def reload(self) -> None:
        """Read the settings again; a mistake in them is logged and changes nothing."""
        if self._reload is not None and (self._reloading is None or self._reloading.done()):
            self._reloading = asyncio.get_running_loop().create_task(self._reloaded(self._reload))

    async def _reloaded(self, read: Reload) -> None:
        try:
            await apply_settings(self._services, read())
        except RoundhouseError as error:
            self._log.error("settings not reloaded", reason=error.message)
        else:
            self._log.info("settings reloaded")

    async def finished(self) -> None:
        """Wait for what the signals began."""
        for task in (self._drain, self._reloading):
            if task is not None:
                await task


async def apply_settings(services: Services, settings: Settings) -> None:
    """Put new settings in force for the requests to come: keys, limits, times, the catalogue's rows.

    Address, data folder and workers' settings need a restart; a change of them is refused with
    ConfigurationError, so that nobody believes in a change that is not there.
    """
    old = services.settings
    fixed = {
        "server.host": (old.server.host, settings.server.host),
        "server.port": (old.server.port, settings.server.port),
        "server.admin_host": (old.server.admin_host, settings.server.admin_host),
        "server.admin_port": (old.server.admin_port, settings.server.admin_port),
        "server.processes": (old.server.processes, settings.server.processes),
        "server.cors": (old.server.cors, settings.server.cors),
        "data_dir": (old.data_dir, settings.data_dir),
        "workers": (old.workers, settings.workers),
        "state": (old.state, settings.state),
        "telemetry": (old.telemetry, settings.telemetry),
    }
    changed = [name for name, (before, after) in fixed.items() if before != after]
    if changed:
        raise ConfigurationError(f"A change of {', '.join(changed)} needs a restart.")
    runtime = services.runtime
    if runtime is not None and runtime.reload is not None:
        await runtime.reload(settings)
    elif (old.model, old.endpoint) != (settings.model, settings.endpoint):
        raise ConfigurationError("A change of [[model]] or [[endpoint]] rows needs a restart.")
    services.settings = settings
    services.in_flight.limits = settings.server.limits
    if isinstance(services.authenticator, Keys):
        services.authenticator = services.authenticator.with_settings(settings.api_keys, settings.admin_keys)


def uvicorn_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """uvicorn as this gateway wants it. The app's lifespan is the caller's to run."""
    server = settings.server
    return uvicorn.Config(
        app,
        host=server.host,
        port=server.port,
        http=protocol_for(server),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=max(1, round(server.timeouts.keep_alive)),
        timeout_graceful_shutdown=3,
        backlog=server.backlog,
        reset_contextvars=True,
    )


def check_data_dir(folder: Path) -> None:
    """Make the data folder if need be. Raises ConfigurationError when it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"The data folder {folder} cannot be written: {error.strerror}. Set data_dir to one that can."
        ) from None
