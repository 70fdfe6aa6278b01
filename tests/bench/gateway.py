"""A whole gateway in this process, so that a benchmark can also reach the worker behind it directly."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from backends.base import Upstream
from backends.queueing import Need
from catalog.errors import RoundhouseError
from server.app import create_app
from server.observability.logging import configure_logging
from server.runtime import Runtime
from server.settings import Settings, load_settings
from tests.e2e.serving import free_port

T = TypeVar("T")


class Gateway:
    """A running gateway: ``url`` is its address, ``runtime`` the parts behind the gate."""

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log)
        self.app = create_app(settings)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(
            uvicorn.Config(self.app, port=self.port, log_level="error", loop="uvloop", http="httptools")
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve()

        asyncio.run(main())

    @property
    def runtime(self) -> Runtime:
        """The parts behind the gate."""
        runtime: Runtime | None = self.app.state.services.runtime
        assert runtime is not None
        return runtime

    def start(self) -> None:
        """Return when it listens."""
        self._thread.start()
        end = time.monotonic() + 30
        while not self._server.started:
            assert time.monotonic() < end, "the gateway did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        """End it and its workers."""
        self._server.should_exit = True
        self._thread.join(30)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the gateway's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def worker(self, name: str) -> Upstream:
        """Where the worker of a model listens; loads it."""

        async def lease() -> Upstream:
            try:
                model = self.runtime.catalog.resolve(name)
            except RoundhouseError as error:
                raise SystemExit(error.message) from error
            async with self.runtime.pool.lease(model, Need()) as upstream:
                return upstream

        return self.call(lease())


@contextmanager
def gateway(folder: Path, **overrides: Any) -> Iterator[Gateway]:
    """A gateway with the starter models that were pulled; whatever it remembers is under ``folder``."""
    (folder / "models").symlink_to(load_settings(None).data_dir / "models")
    quiet = {"log": {"level": "error", "access": False}, "data_dir": folder}
    running = Gateway(load_settings(None, **{**quiet, **overrides}))
    running.start()
    try:
        yield running
    finally:
        running.stop()
