"""Work that ends when its client goes away, or when the server may not wait for it any longer."""

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
    """The client closed its connection: nobody is left to answer."""


class ResponseCut(Exception):
    """The response cannot be completed and its format cannot say so; the connection is cut."""


class ClientConnection:
    """A client's connection, which tells those who work for it when it is lost."""

    __slots__ = ("_listeners", "_resume_reading", "lost")

    def __init__(self, resume_reading: Callable[[], None]) -> None:
        """``resume_reading``: the loss of a connection that is not read from stays unseen."""
        self.lost = False
        self._listeners: set[Callable[[], None]] = set()
        self._resume_reading = resume_reading

    def listen(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the connection is lost; soon, when it is."""
        if self.lost:
            asyncio.get_running_loop().call_soon(callback)
            return
        self._listeners.add(callback)
        self._resume_reading()

    def forget(self, callback: Callable[[], None]) -> None:
        """Do not call it any more."""
        self._listeners.discard(callback)

    def lose(self) -> None:
        """Tell everybody, once."""
        self.lost = True
        listeners, self._listeners = self._listeners, set()
        for callback in listeners:
            callback()


def _nobody() -> None: ...


class DisconnectWatch:
    """Calls back when the client of a request leaves, between :meth:`start` and :meth:`stop`.

    The request's body must have been read: from then on ``receive`` only tells of the disconnect. The server's own
    protocol tells of it without a task that waits for it; other ASGI servers (tests') only have ``receive``.
    """

    __slots__ = ("_callback", "_connection", "_receive", "_watcher")

    def __init__(self, scope: Scope, receive: Receive, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._connection: ClientConnection | None = scope.get(CONNECTION)
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch from now on."""
        if self._connection is not None:
            self._connection.listen(self._callback)
        else:
            self._watcher = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Watch no longer."""
        if self._connection is not None:
            self._connection.forget(self._callback)
        elif self._watcher is not None:
            self._watcher.cancel()
        self._callback = _nobody  # it may lead back to whoever holds this: a cycle for every request

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._callback()


class Guard:
    """Cancels the block when the client leaves (ClientGone) or at :meth:`abort` (the error given).

    A server gives a handler no sign of a client that leaves otherwise, and a plain request would decode to its
    end for nobody.
    """

    __slots__ = ("_leaving", "_task", "_why", "_works")

    def __init__(self, request: Request, in_flight: InFlight) -> None:
        self._works = in_flight.works
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
        self._works.add(self)
        self._leaving.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leaving.stop()
        self._works.discard(self)
        task, self._task = self._task, None
        if self._why is None:
            return
        assert task is not None
        left = task.uncancel()
        if error is None or (isinstance(error, asyncio.CancelledError) and left == 0):
            raise self._why from None
