"""One connection to an upstream: HTTP/1.1, one exchange at a time.

llhttp (httptools) reads what comes; what is sent was written by :func:`request_head`. Sources: RFC 9112 (messages,
and when a connection may be used again), RFC 9110 (interim answers).
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Mapping
from typing import cast

import httptools

HIGH_WATER = 256 * 1024
"""Bytes of a body that are held for a reader who takes his time; then the upstream waits, too."""
MAX_HEAD = 64 * 1024
"""Bytes of an answer's head, trailers included."""


class ConnectionLost(Exception):
    """It was closed before its answer was whole. ``begun``: a part of the answer had come."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class NotHttp(Exception):
    """What came is no answer in HTTP/1.1."""


class Connection(asyncio.Protocol):
    """Made by a transport; then :meth:`send`, :meth:`head`, and :meth:`take` and :meth:`wait` until the end.

    One task uses it. ``head``, ``take`` and ``wait`` raise ConnectionLost, NotHttp, or what :meth:`give_up` was
    given.
    """

    __slots__ = (
        "_begun", "_complete", "_eof", "_head_bytes", "_head_there", "_held", "_keep", "_loop", "_not_http",
        "_parser", "_paused", "_pieces", "_poll", "_transport", "_until_close", "_waiter", "expires_at", "headers",
        "idle_since", "lost", "status",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.lost = False
        self.idle_since = 0.0
        self.expires_at = 0.0
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._poll: select.poll | None = None
        self._eof = False
        self._pieces: list[bytes] = []
        self._held = 0
        self._head_bytes = 0
        self._paused = self._begun = self._head_there = self._until_close = self._keep = self._not_http = False
        self._complete = True

    # ---- for whoever makes a call

    @property
    def at_end(self) -> bool:
        """Whether the answer is whole and all of it was taken."""
        return self._complete and not self._pieces

    def send(self, head: bytes, body: bytes | None) -> None:
        """Begin an exchange."""
        self.status = 0
        self.headers = {}
        self._head_bytes = 0
        self._begun = self._head_there = self._until_close = self._keep = self._complete = False
        if self._transport is None:
            return
        if body:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head)

    async def head(self) -> None:
        """Return when ``status`` and ``headers`` are there."""
        while not self._head_there:
            await self.wait()

    def take(self) -> bytes:
        """What has come of the body and was not taken yet; may be nothing."""
        pieces = self._pieces
        if not pieces:
            self._check()
            return b""
        self._held = 0
        self._resume()
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return data

    async def wait(self) -> None:
        """Return when something has changed."""
        self._check()
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None
            del waiter  # it may hold the error whose traceback holds this frame

    def give_up(self, why: Exception) -> None:
        """End the wait that goes on."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(why)

    def finish(self) -> bool:
        """The exchange is over for its reader. Whether the connection can serve another one.

        It can when the answer came whole and neither side wants to close.
        """
        self._pieces.clear()
        self._held = 0
        if not (self._complete and self._keep and self.alive):
            return False
        self._resume()
        return True

    @property
    def alive(self) -> bool:
        """Whether neither side has closed it, as far as the event loop has noticed."""
        return self._transport is not None and not self._eof and not self._transport.is_closing()

    def can_send(self) -> bool:
        """Whether an idle connection may carry another request.

        Asks the socket as well: an EOF or a reset that has arrived is unknown to the event loop until it polls. A
        request written after one is lost, and a POST cannot be sent again.
        """
        if not self.alive:
            return False
        if self._poll is None:
            assert self._transport is not None
            self._poll = select.poll()
            self._poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._poll.poll(0)

    def hand_over(self) -> asyncio.Transport:
        """The transport, for another protocol; this one is done."""
        transport, self._transport = self._transport, None
        if transport is None:
            raise ConnectionLost(begun=self._begun)
        return transport

    def close(self) -> None:
        """End it in good order, when nothing is under way."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End it at once: an upstream that still answers stops."""
        if self._transport is not None:
            self._transport.abort()

    # ---- asyncio's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass of it

    def data_received(self, data: bytes) -> None:
        if self._complete:  # nobody asked for this
            self._keep = False
            self.abort()
            return
        self._begun = True
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._keep = False
            if not self._complete:  # else the answer is whole, and what follows it is not ours
                self._not_http = True
                self.abort()
        if self._held > HIGH_WATER and not self._paused and self.alive:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._eof = True  # a transport over TLS does not say is_closing() before its own shutdown is over

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if exc is None and self._head_there and self._until_close and not self._not_http:
            self._complete = True
        self._transport = self._parser = None  # which holds this connection's methods
        self._wake()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._transport is not None:
                self._transport.resume_reading()

    def _check(self) -> None:
        if self._not_http:
            raise NotHttp
        if self.lost and not self._complete:
            raise ConnectionLost(begun=self._begun)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ---- httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._complete or self._head_bytes > MAX_HEAD:
            raise NotHttp
        if self._head_there:  # a trailer
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        had = self.headers.get(key)
        self.headers[key] = text if had is None else f"{had}, {text}"

    def on_headers_complete(self) -> None:
        parser = self._parser
        if self._complete or parser is None:
            raise NotHttp
        self.status = parser.get_status_code()
        if self.status < 200:
            return
        self._head_there = True
        self._keep = parser.should_keep_alive()
        headers = self.headers
        self._until_close = "content-length" not in headers and "transfer-encoding" not in headers

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._held += len(body)

    def on_message_complete(self) -> None:
        if self._head_there:
            self._complete = True
            self.idle_since = self._loop.time()
        else:
            self.headers = {}


def request_head(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """The head of a request. ``target`` is in ASCII. Raises ValueError for what cannot stand in one."""
    lines = [f"{method} {target} HTTP/1.1\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
    if body is not None:
        lines.append(f"content-length: {len(body)}\r\n")
    elif method in ("POST", "PUT", "PATCH"):
        lines.append("content-length: 0\r\n")
    text = "".join(lines)
    if text.count("\n") != len(lines) or text.count("\r") != len(lines) or "\0" in text:
        raise ValueError("a header has a line end in it")
    return f"{text}\r\n".encode()
