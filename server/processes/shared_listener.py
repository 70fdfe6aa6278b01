"""A listening socket whose connections several processes accept in turn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

ACCEPT_PAUSE = 0.001
"""Seconds after accepting a connection in which other processes may accept the next: the time to wake up. A
process that is alone still accepts nearly a thousand connections a second. Open connections are not affected."""
ERROR_PAUSE = 1.0
"""Seconds without accepting after an error, such as no file descriptors left."""


class SharedListener:
    """Accepts one connection at a time and pauses after each, so that a busy process accepts fewer.

    The servers of asyncio and uvloop accept all waiting connections at once. When a burst wakes every process, the
    first would take all of it, and keep it as long as the clients keep their connections: measured, 20 of 20 went
    to one of two idle processes. Has the methods of :class:`asyncio.Server` that uvicorn uses.
    """

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        listener.setblocking(False)
        self.sockets = (listener,)
        self._listener = listener
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[object]] = set()
        self._resume: asyncio.TimerHandle | None = None
        self._closed = False
        self._listen()

    def close(self) -> None:
        """Accept no more connections; accepted ones continue."""
        if self._closed:
            return
        self._closed = True
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Wait until every accepted connection has its protocol."""
        if self._connecting:
            await asyncio.wait(self._connecting)

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process accepted it, or the client disconnected
        except OSError:
            self._pause(ERROR_PAUSE)
            return
        self._pause(ACCEPT_PAUSE)
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._resume = self._loop.call_later(seconds, self._listen)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()
