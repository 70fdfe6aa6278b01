"""The app over a fake runtime, called in process or through a real uvicorn."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import structlog
from fastapi import FastAPI

from routing.accounts.virtual_keys import VirtualKeys
from routing.clock import SystemClock
from server.app import create_app
from server.background import works
from server.edge.services import Services
from server.observability.logging import configure_structlog
from server.observability.settings import LogSettings
from server.processes.run import GatewayServer, uvicorn_config
from server.runtime import Runtime
from server.settings import ServerSettings, Settings
from server.storage.runner import Runner
from tests.server.fakes import FakeBackend, FakeDispatcher, FakePool, fake_runtime


@dataclass
class Gateway:
    """A running app and its fake parts."""

    app: FastAPI
    client: httpx.AsyncClient
    backend: FakeBackend
    dispatcher: FakeDispatcher
    pool: FakePool
    _server: GatewayServer | None = None

    @property
    def server(self) -> GatewayServer:
        assert self._server is not None, "only a gateway of the fixture serve has a server"
        return self._server

    @property
    def keys(self) -> VirtualKeys:
        runtime = self.services.runtime
        assert runtime is not None
        assert runtime.keys is not None
        return runtime.keys

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services


Start = Callable[..., AbstractAsyncContextManager[Gateway]]


def settings(**overrides: object) -> Settings:
    """Settings without file, environment or flags."""
    return Settings.model_validate({"log": {"access": False}, **overrides})


@asynccontextmanager
async def state(runtime: Runtime) -> AsyncIterator[None]:
    """Start and stop the state behind spend and keys."""
    store = runtime.spend._store
    await store.start()
    runtime.files.open()
    runtime.runner = Runner(runtime.storage.records, SystemClock(), works(runtime, Settings()))
    runtime.runner.start()
    try:
        yield
    finally:
        await runtime.runner.stop()
        await store.close()


@pytest.fixture(autouse=True)
def logs() -> Iterator[io.StringIO]:
    """The log as JSON lines, at debug level."""
    stream = io.StringIO()
    configure_structlog(LogSettings(format="json", level="debug"), stream)
    yield stream
    structlog.reset_defaults()


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a gateway within the test's process: ``async with start(api_keys=...) as gateway``."""

    @asynccontextmanager
    async def starting(**overrides: object) -> AsyncIterator[Gateway]:
        runtime, backend, dispatcher, pool = fake_runtime(tmp_path)
        app = create_app(settings(**overrides), runtime=runtime)
        async with state(runtime), app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                yield Gateway(app, client, backend, dispatcher, pool)

    return starting


@pytest.fixture
async def gateway(start: Start) -> AsyncIterator[Gateway]:
    """A gateway with default settings."""
    async with start() as running:
        yield running


@pytest.fixture
def serve(tmp_path: Path) -> Start:
    """Start a gateway behind a real uvicorn on a free loopback port."""

    @asynccontextmanager
    async def serving(**overrides: object) -> AsyncIterator[Gateway]:
        runtime, backend, dispatcher, pool = fake_runtime(tmp_path)
        server = {**dict(overrides.pop("server", {})), "port": 0}  # type: ignore[call-overload]
        chosen = settings(**overrides, server=ServerSettings(**server))
        app = create_app(chosen, runtime=runtime)
        async with state(runtime), app.router.lifespan_context(app):
            running = GatewayServer(uvicorn_config(app, chosen))
            task = asyncio.create_task(running.serve())
            try:
                async with asyncio.timeout(10):
                    await running.listening.wait()
                async with httpx.AsyncClient(base_url=running.url, timeout=10) as client:
                    yield Gateway(app, client, backend, dispatcher, pool, running)
            finally:
                running.should_exit = True
                await task

    return serving
