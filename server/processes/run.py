"""Runs the gateway in this process: sockets, event loop, signals. :mod:`server.processes.fleet` runs several.

SIGTERM and SIGINT drain: readiness becomes false, new requests are refused with Retry-After, and streams that have
not ended by the deadline get an error event. A second SIGINT or SIGTERM stops at once. SIGHUP reloads the settings
without dropping a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from catalog.errors import RoundhouseError
from server.app import OpenRuntime, create_app
from server.edge.descriptors import DescriptorReserve, raise_limit
from server.edge.uvicorn_protocol import protocol_for
from server.observability.logging import configure_logging
from server.processes.data_folder import check_data_dir, claimed, published
from server.processes.greeting import greet
from server.processes.reload import SettingsLoader
from server.processes.shared_listener import SharedListener
from server.processes.signals import SignalHandlers
from server.processes.sockets import bind_admin, bind_public, check_not_served, loop_factory, url_of
from server.scope import ADMIN_LISTENER
from server.settings import Settings

GC_THRESHOLD = 20_000
"""Objects allocated, less those freed, between two collections of the youngest generation."""


def run(
    settings: Settings, *, reload: SettingsLoader | None = None, open_runtime: OpenRuntime | None = None
) -> int:
    """Serve until a signal stops the process; returns its exit status.

    ``reload`` loads the settings on SIGHUP. ``open_runtime`` is as in :func:`server.app.create_app`; it must be
    ``None`` with several gateway processes, which build their own runtimes. An error that prevents the start is
    one line on standard error and status 1.
    """
    configure_logging(settings.log)
    raise_limit()
    try:
        check_data_dir(settings.data_dir)
        check_not_served(settings)
        with claimed(settings.data_dir):
            if settings.server.processes > 1:
                assert open_runtime is None, "gateway processes build their own runtimes"
                _run_fleet(settings, reload)
            else:
                _run_single(settings, reload, open_runtime)
    except RoundhouseError as error:
        print(f"roundhouse: {error.message}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _run_single(settings: Settings, reload: SettingsLoader | None, open_runtime: OpenRuntime | None) -> None:
    app = create_app(settings, open_runtime=open_runtime)
    listener = bind_public(settings)
    with listener, asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(app, settings, listener, reload=reload))


def _run_fleet(settings: Settings, reload: SettingsLoader | None) -> None:
    from server.processes.fleet import run_fleet

    tune_garbage_collector()
    run_fleet(settings, reload=reload)


async def serve(
    app: FastAPI,
    settings: Settings,
    listener: socket.socket,
    *,
    admin_listener: socket.socket | None = None,
    reload: SettingsLoader | None = None,
    on_listening: Callable[[], None] | None = None,
) -> None:
    """Serve ``app`` on a listening socket until a signal stops it.

    ``on_listening`` is for one of several processes that share the socket: it is called just before this process
    accepts connections, in place of the log line. ``admin_listener`` is as in :func:`administration`.
    """
    log = structlog.get_logger("server.processes.run")
    asyncio.get_running_loop().set_exception_handler(DescriptorReserve().handle)
    async with app.router.lifespan_context(app):
        server = GatewayServer(uvicorn_config(app, settings), shared=on_listening is not None)
        handlers = SignalHandlers(server, app.state.services, reload)
        with handlers.installed():
            async with administration(app, settings, admin_listener) as admin_url:
                with contextlib.ExitStack() as stack:
                    if on_listening is None:
                        url = url_of(listener)
                        log.info("listening", url=url, admin=admin_url, version=app.version)
                        stack.enter_context(published(settings.data_dir, url, admin_url))
                        greet(settings, url)
                    else:
                        on_listening()
                    tune_garbage_collector()
                    await server.serve(sockets=[listener])
        await handlers.wait_finished()
    log.info("stopped")


def tune_garbage_collector() -> None:
    """Enable garbage collection, less often than by default and without the objects that start-up made.

    A request leaves some hundred objects that live as long as its trace. With Python's default threshold of 700
    the collector would traverse them, and all modules, many times a second, which delays the requests in flight.
    Start-up's own garbage (two thousand small objects) is frozen too: finding it would delay the first request by
    80 ms. The command line disables collection during start-up.
    """
    gc.freeze()
    gc.enable()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


class GatewayServer(uvicorn.Server):
    """uvicorn's server without its signal handlers, which would cut streams off without an error event."""

    def __init__(self, config: uvicorn.Config, *, shared: bool = False) -> None:
        """``shared``: other processes accept connections from the same sockets."""
        super().__init__(config)
        self.listening = asyncio.Event()
        self._shared = shared

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then set :attr:`listening`."""
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
        """Capture nothing: :class:`~server.processes.signals.SignalHandlers` does."""
        yield

    @property
    def url(self) -> str:
        """The URL of the first listening socket."""
        return url_of(self.servers[0].sockets[0])


def uvicorn_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """The gateway's configuration of uvicorn. The caller runs the app's lifespan."""
    server = settings.server
    return uvicorn.Config(
        app,
        host=server.host,
        port=server.port,
        http=protocol_for(server),
        ws="server.edge.sockets.uvicorn_socket:GatewaySocket",
        ws_max_size=settings.realtime.message_bytes,
        ws_per_message_deflate=False,  # base64 of audio does not shrink enough for its processor time
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


@asynccontextmanager
async def administration(
    app: FastAPI, settings: Settings, listener: socket.socket | None = None
) -> AsyncIterator[str | None]:
    """Serve the admin routes at their own address while the block runs; yields its URL, or ``None`` without one.

    The same app answers there, with the admin routes enabled. ``listener`` is a socket that listens already;
    without it the address of the settings is bound. Raises ConfigurationError as :func:`bind`.
    """
    listener = listener or bind_admin(settings)
    if listener is None:
        yield None
        return

    async def admin_app(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ADMIN_LISTENER] = True
        await app(scope, receive, send)

    with listener:
        server = GatewayServer(uvicorn_config(admin_app, settings))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await server.listening.wait()
            yield server.url
        finally:
            server.should_exit = True
            await task
