"""Work that ends when its client goes away, or when the server may not wait for it any longer."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

from catalog.errors import RoundhouseError
from server.admission import InFlight


class ClientGone(Exception):
    """The client closed its connection: nobody is left to answer."""


class Guard:
    """Cancels the block when the client leaves (ClientGone) or at :meth:`abort` (the error given).

    The request's body must have been read: from then on ``receive`` only tells of the disconnect. A server
    gives a handler no sign of it otherwise, and a plain request would decode to its end for nobody.
    """

    def __init__(self, receive: Receive, in_flight: InFlight) -> None:
        self._receive = receive
        self._in_flight = in_flight
        self._task: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._why: Exception | None = None

    def abort(self, error: RoundhouseError) -> None:
        """End the block with ``error``."""
        self._end(error)

    def _end(self, why: Exception) -> None:
        if self._why is None and self._task is not None:
            self._why = why
            self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end(ClientGone())

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        self._in_flight.works.add(self)
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._watcher is not None
        self._watcher.cancel()
        self._in_flight.works.discard(self)
        task, self._task = self._task, None
        if self._why is None:
            return
        assert task is not None
        left = task.uncancel()
        if error is None or (isinstance(error, asyncio.CancelledError) and left == 0):
            raise self._why from None
