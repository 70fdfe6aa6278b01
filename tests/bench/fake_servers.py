"""Fake upstreams in a thread of their own, beside a gateway in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from aiohttp import web

from tests.e2e.serving import free_port

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextmanager
def serving(upstreams: Sequence[Mapping[str, Handler]]) -> Iterator[list[str]]:
    """Serve each upstream's handlers of POST by path; yields an address for each."""
    ports = [free_port() for _ in upstreams]
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def start() -> None:
        for port, handlers in zip(ports, upstreams, strict=True):
            app = web.Application(client_max_size=2**24)
            for path, handler in handlers.items():
                app.router.add_post(path, handler)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
        ready.set()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield [f"http://127.0.0.1:{port}" for port in ports]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
