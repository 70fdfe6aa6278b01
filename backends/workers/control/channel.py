"""Remote calls in both directions over one stream socket between two processes of one machine.

Messages are JSON objects, one per line (encoded JSON contains no newline)::

    {"call": 7, "do": "unload", "with": {...}}       a call; its number is chosen by the caller
    {"call": 8, "do": "lease", "with": {...}, "hold": true}
                                                     a call whose result is held until "end"
    {"done": 7, "value": ...}                        the result
    {"done": 7, "error": {"type": "QueueFull", "message": ..., "carries": {...}}}
    {"end": 8}                                       cancels the call, or releases what is held
    {"end": 8, "failed": true}                       ... because the caller's use of it failed
    {"end": 8, "failed": {"type": "IdleTimeout", ...}}
                                                     ... with this error, which the held operation is told
    {"note": "snapshot", "with": {...}}              a notification without an answer

Each call is a task of the receiver, so a slow call delays no other. When the socket closes, for whatever reason,
everything held over it is released, and pending calls fail. A round trip takes about 0.1 ms. The parent creates a
socket pair and the child inherits one end, so no other process can connect. Between machines,
:mod:`backends.workers.control.network` connects channels, with a key.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import cast

import orjson
import structlog

from backends.workers.control.codec import JsonValue, dumps, error_from_json, error_to_json
from catalog.errors import RoundhouseError, Unavailable

Operation = Callable[[JsonValue], AbstractAsyncContextManager[JsonValue]]

LARGEST_MESSAGE = 64 * 1024 * 1024
"""Largest message in bytes; a longer one is a bug of the sender and closes the channel."""
BEHIND = 1024 * 1024
"""Unsent bytes above which the peer counts as behind."""


class Channel(asyncio.Protocol):
    """One end of the connection. Register handlers (:meth:`serve`, :meth:`answer`, :meth:`hear`), then
    :meth:`open` it.
    """

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._operations: dict[str, Operation] = {}
        self._notes: dict[str, Callable[[JsonValue], None]] = {}
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[JsonValue]] = {}
        self._working: dict[int, _Work] = {}
        self._buffer = bytearray()
        self.largest = LARGEST_MESSAGE
        self.received = 0
        """Counts what came from the peer, whatever it was: a sign that it lives."""
        self._log = structlog.get_logger("roundhouse.control")

    # ---- handlers

    def serve(self, name: str, operation: Operation) -> None:
        """Answer calls of ``name`` with what ``operation(argument)`` yields; "end" exits its block."""
        self._operations[name] = operation

    def answer(self, name: str, function: Callable[[JsonValue], Awaitable[JsonValue]]) -> None:
        """Answer calls of ``name`` with the result of a coroutine function."""

        @asynccontextmanager
        async def operation(argument: JsonValue) -> AsyncIterator[JsonValue]:
            yield await function(argument)

        self.serve(name, operation)

    def hear(self, name: str, listener: Callable[[JsonValue], None]) -> None:
        """Call ``listener`` with notes of ``name``, in the order in which notes and calls were sent."""
        self._notes[name] = listener

    def listener(self, name: str) -> Callable[[JsonValue], None]:
        """Return the listener of a note, which another may then wrap."""
        return self._notes[name]

    async def open(self, connected: socket.socket) -> None:
        """Start on a connected stream socket; the channel takes ownership of it."""
        connected.setblocking(False)
        loop = asyncio.get_running_loop()
        if connected.family == socket.AF_UNIX:
            await loop.create_unix_connection(lambda: self, sock=connected)
        else:
            await loop.create_connection(lambda: self, sock=connected)

    def close(self) -> None:
        """Close the channel; :attr:`closed` is set once it has closed."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close it without waiting for the peer, which may be gone."""
        if self._transport is not None:
            self._transport.abort()

    # ---- calls to the peer

    async def call(self, name: str, argument: JsonValue = None) -> JsonValue:
        """Call the peer and return its answer.

        Raises the peer's error, or Unavailable if it goes away. Cancellation cancels the call in the peer, too.
        """
        number, answer = self._ask(name, argument, hold=False)
        try:
            return await answer
        except asyncio.CancelledError:
            self._send({"end": number, "failed": True})
            raise
        finally:
            del self._asked[number]

    @asynccontextmanager
    async def hold(self, name: str, argument: JsonValue = None) -> AsyncIterator[JsonValue]:
        """As :meth:`call`, for a result that the peer holds until the block ends."""
        number, answer = self._ask(name, argument, hold=True)
        try:
            value = await answer
        except asyncio.CancelledError:
            self._send({"end": number, "failed": True})
            raise
        finally:
            del self._asked[number]
        try:
            yield value
        except BaseException as error:
            told = error_to_json(error) if isinstance(error, RoundhouseError) else True
            self._send({"end": number, "failed": told})
            raise
        self._send({"end": number})

    def tell(self, name: str, argument: JsonValue = None) -> None:
        """Send a note."""
        self._send({"note": name, "with": argument})

    @property
    def behind(self) -> bool:
        """Whether the peer does not keep up with reading; notes that later ones replace should then be skipped."""
        return self._transport is not None and self._transport.get_write_buffer_size() > BEHIND

    def _ask(self, name: str, argument: JsonValue, *, hold: bool) -> tuple[int, asyncio.Future[JsonValue]]:
        if self._transport is None or self.closed.is_set():
            raise _gone()
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        message = {"call": number, "do": name, "with": argument}
        self._send({**message, "hold": True} if hold else message)
        return number, answer

    def _send(self, message: JsonValue) -> None:
        if self._transport is not None and not self.closed.is_set():
            self._transport.write(dumps(message) + b"\n")

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += 1
        self._buffer += data
        if b"\n" not in data:
            if len(self._buffer) > self.largest:
                self.close()
            return
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            self._receive(orjson.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.closed.set()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(_gone())
        for work in self._working.values():
            work.task.cancel()

    def _receive(self, message: JsonValue) -> None:
        if "note" in message:
            listener = self._notes.get(message["note"])
            if listener is not None:
                listener(message["with"])
        elif "call" in message:
            work = _Work()
            number = message["call"]
            work.task = asyncio.create_task(self._work(message, work), name=f"control {message['do']}")
            self._working[number] = work
            # Not a finally in the task: a task cancelled before its first step never reaches it.
            work.task.add_done_callback(lambda _: self._working.pop(number))
        elif "end" in message:
            work_of_it = self._working.get(message["end"])
            if work_of_it is not None:
                work_of_it.end(failed=message.get("failed", False))
        else:
            self._done(message)

    def _done(self, message: JsonValue) -> None:
        answer = self._asked.get(message["done"])
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(error_from_json(message["error"]))
        else:
            answer.set_result(message["value"])

    async def _work(self, message: JsonValue, work: _Work) -> None:
        number, name = message["call"], message["do"]
        try:
            operation = self._operations.get(name)
            if operation is None:
                raise RoundhouseError(f"The other process does not know '{name}'.")
            async with operation(message["with"]) as value:
                self._send({"done": number, "value": value})
                work.answered = True
                if message.get("hold"):
                    await work.until_ended()
        except _GivenUp:
            pass
        except RoundhouseError as error:
            if not work.answered:  # else it is the peer's own
                self._send({"done": number, "error": error_to_json(error)})
        except Exception as error:  # the boundary: a bug here must not leave the peer waiting
            self._log.error("control call failed", call=name, exc_info=error)
            self._send({"done": number, "error": error_to_json(RoundhouseError("An internal error occurred."))})


class _GivenUp(Exception):
    """Raised into a held operation when the peer reports that its use of the result failed."""


class _Work:
    """One call of the peer, while it runs or is held."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.answered = False
        self._ended = asyncio.Event()
        self._failed: JsonValue = False

    def end(self, *, failed: JsonValue) -> None:
        self._failed = failed
        if self.answered:
            self._ended.set()
        else:
            self.task.cancel()

    async def until_ended(self) -> None:
        await self._ended.wait()
        if isinstance(self._failed, dict):
            raise error_from_json(self._failed)
        if self._failed:
            raise _GivenUp


def _gone() -> Unavailable:
    return Unavailable("The process that runs the workers is gone. Try again shortly.", retry_after=1)
