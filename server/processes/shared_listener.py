"""A listening socket that several processes share, and take connections from in turns."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

TURN = 0.001
"""Seconds after a connection in which the other processes may take the next: the time to be woken. A process that
is alone still takes nearly a thousand new connections a second; what comes on an open one never waits."""
RESTS = 1.0
"""Seconds without accepting when there are no descriptors left."""


class SharedListener:
    """Takes one waiting connection, and leaves the next to others for a moment; a busy process takes fewer.

    The event loops' own servers accept all that waits at once. Where every process is woken by the same burst,
    the first one would get all of it, and keep it for as long as the clients keep their connections: measured,
    20 of 20 to one of two idle processes. It has what uvicorn asks of an :class:`asyncio.Server`.
    """

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        listener.setblocking(False)
        self.sockets = (listener,)
        self._listener = listener
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._greetings: set[asyncio.Task[object]] = set()
        self._resting: asyncio.TimerHandle | None = None
        self._closed = False
        self._listen()

    def close(self) -> None:
        """Take no more; what was taken goes on."""
        if self._closed:
            return
        self._closed = True
        if self._resting is not None:
            self._resting.cancel()
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Until no connection is between being accepted and being served."""
        if self._greetings:
            await asyncio.wait(self._greetings)

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was first, or the client has left
        except OSError:
            self._rest(RESTS)
            return
        self._rest(TURN)
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        greeting = self._loop.create_task(self._greet(connection))
        self._greetings.add(greeting)
        greeting.add_done_callback(self._greetings.discard)

    def _rest(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._resting = self._loop.call_later(seconds, self._listen)

    async def _greet(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()
