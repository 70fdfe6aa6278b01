"""Runs an ASGI app on the worker's Unix socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import uvicorn

from backends.workers.spec import Ready, WorkerSpec


def serve_app(create: Callable[[WorkerSpec], Any], spec: WorkerSpec, ready: Ready) -> None:
    """Create a Starlette or FastAPI app and serve it until SIGTERM.

    The app's lifespan runs here and not in uvicorn, which would only log its exceptions.
    """
    asyncio.run(_serve(create, spec, ready))


async def _serve(create: Callable[[WorkerSpec], Any], spec: WorkerSpec, ready: Ready) -> None:
    os.umask(0o077)
    app = create(spec)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        config = uvicorn.Config(
            app, uds=spec.socket, lifespan="off", access_log=False, log_level="warning", server_header=False
        )
        await _Server(config, ready).serve()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Ready) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()
