"""Ends a request's work when its client disconnects or the server aborts it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from starlette.requests import Request
from starlette.types import Receive, Scope

from catalog.errors import RoundhouseError
from server.edge.admission import InFlight
from server.scope import CONNECTION


class ClientGone(Exception):
    """The client closed its connection, so no answer is sent."""


class ResponseCut(Exception):
    """The response cannot be completed and its format cannot say so; the connection is cut."""


class ClientConnection:
    """A client's connection, which notifies listeners when it is lost."""

    __slots__ = ("_listeners", "_resume_reading", "lost")

    def __init__(self, resume_reading: Callable[[], None]) -> None:
        """``resume_reading`` is called for a listener: asyncio reports EOF only while reading."""
        self.lost = False
        self._listeners: set[Callable[[], None]] = set()
        self._resume_reading = resume_reading

    def listen(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the connection is lost; if it already is, in the next loop iteration."""
        if self.lost:
            asyncio.get_running_loop().call_soon(callback)
            return
        self._listeners.add(callback)
        self._resume_reading()

    def forget(self, callback: Callable[[], None]) -> None:
        """Remove a listener."""
        self._listeners.discard(callback)

    def lose(self) -> None:
        """Notify every listener, once."""
        self.lost = True
        listeners, self._listeners = self._listeners, set()
        for callback in listeners:
            callback()


def _nobody() -> None: ...


class DisconnectWatch:
    """Calls back when a request's client disconnects, between :meth:`start` and :meth:`stop`.

    The request's body must have been read: after it, ``receive`` returns only the disconnect. Our own protocol
    reports a disconnect without a waiting task; other ASGI servers (in tests) have only ``receive``.
    """

    __slots__ = ("_callback", "_connection", "_receive", "_watcher")

    def __init__(self, scope: Scope, receive: Receive, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._connection: ClientConnection | None = scope.get(CONNECTION)
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        if self._connection is not None:
            self._connection.listen(self._callback)
        else:
            self._watcher = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Stop watching."""
        if self._connection is not None:
            self._connection.forget(self._callback)
        elif self._watcher is not None:
            self._watcher.cancel()
        self._callback = _nobody  # the callback may refer to the watch's owner, a reference cycle

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._callback()


class Guard:
    """Cancels the block when the client disconnects (ClientGone) or at :meth:`abort` (its error).

    ASGI does not cancel a handler whose client disconnects, so a plain request would decode to its end.
    """

    __slots__ = ("_in_flight", "_leaving", "_task", "_why")

    def __init__(self, request: Request, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self._leaving = DisconnectWatch(request.scope, request.receive, self._gone)
        self._task: asyncio.Task[object] | None = None
        self._why: Exception | None = None

    def abort(self, error: RoundhouseError) -> None:
        """End the block with ``error``."""
        self._end(error)

    def _gone(self) -> None:
        self._end(ClientGone())

    def _end(self, why: Exception) -> None:
        if self._why is None and self._task is not None:
            self._why = why
            self._task.cancel()

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        self._in_flight.begin(self)
        self._leaving.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leaving.stop()
        self._in_flight.works.discard(self)
        task, self._task = self._task, None
        if self._why is None:
            return
        assert task is not None
        left = task.uncancel()
        if error is None or (isinstance(error, asyncio.CancelledError) and left == 0):
            raise self._why from None
