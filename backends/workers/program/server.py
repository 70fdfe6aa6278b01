"""Runs an ASGI app on the worker's socket."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import uvicorn
from starlette.applications import Starlette

from backends.workers.spec import Ready, WorkerSpec, split_socket


def serve_app(app: Starlette, spec: WorkerSpec, ready: Ready) -> None:
    """Serve ``app`` until SIGTERM; ``ready`` is called once the socket is open.

    The app's lifespan runs here and not in uvicorn, which would only log its exceptions.
    """
    asyncio.run(_serve(app, spec, ready))


async def _serve(app: Starlette, spec: WorkerSpec, ready: Ready) -> None:
    os.umask(0o077)
    async with app.router.lifespan_context(app):
        tcp = split_socket(spec.socket)
        where: dict[str, Any] = {"uds": spec.socket} if tcp is None else {"host": tcp[0], "port": tcp[1]}
        config = uvicorn.Config(
            app, **where, lifespan="off", access_log=False, log_level="warning", server_header=False
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
