"""One connection to an upstream: HTTP/1.1, one exchange at a time.

llhttp (httptools) parses answers; :func:`request_head` writes requests. Sources: RFC 9112 (messages, and when a
connection may be reused), RFC 9110 (interim answers).
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Mapping
from typing import cast

import httptools

HIGH_WATER = 256 * 1024
"""Bytes of a body buffered for a slow reader before the connection stops reading from its socket."""
MAX_HEAD = 64 * 1024
"""Bytes of an answer's head, trailers included."""


class ConnectionLost(Exception):
    """The connection closed before the answer was complete.

    ``begun``: a part of the answer had come. ``sent``: the request had been sent.
    """

    def __init__(self, *, begun: bool, sent: bool = False) -> None:
        super().__init__()
        self.begun = begun
        self.sent = sent


class NotHttp(Exception):
    """The received bytes are not an HTTP/1.1 answer."""


class Connection(asyncio.Protocol):
    """An asyncio protocol that carries one exchange after another, each by one task.

    An exchange is :meth:`send`, :meth:`read_head`, then :meth:`take` and :meth:`wait` until :attr:`at_end`, then
    :meth:`finish`. Reading raises ConnectionLost or NotHttp; a wait also raises the error that :meth:`fail_wait`
    was given.
    """

    __slots__ = (
        "_begun", "_behind", "_buffered", "_complete", "_eof", "_head_bytes", "_head_complete", "_keep_alive",
        "_loop", "_lost", "_not_http", "_parser", "_paused", "_pieces", "_poll", "_transport", "_until_close",
        "_waiter", "expires_at", "headers", "idle_since", "status",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.idle_since = 0.0
        """When the last answer was complete, in the event loop's time."""
        self.expires_at = 0.0
        """When its pool closes it if it is idle, in the event loop's time."""
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._poll: select.poll | None = None
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._head_bytes = 0
        self._eof = self._lost = self._paused = self._not_http = False
        self._begun = self._head_complete = self._until_close = self._keep_alive = self._behind = False
        self._complete = True

    # ---- one exchange

    @property
    def at_end(self) -> bool:
        """Whether the answer is complete and all of its body was taken."""
        return self._complete and not self._pieces

    def send(self, head: bytes, body: bytes | None) -> None:
        """Write a request. The transport may hand it to the socket at once, in part or later."""
        self.status = 0
        self.headers = {}
        self._head_bytes = 0
        self._begun = self._head_complete = self._until_close = self._keep_alive = self._complete = False
        if self._transport is None:
            return
        if body:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head)

    @property
    def all_sent(self) -> bool:
        """Whether the operating system has taken the request, but for what a transport buffers without a pause."""
        return not self._behind

    @property
    def head_complete(self) -> bool:
        """Whether ``status`` and ``headers`` have come."""
        return self._head_complete

    async def read_head(self) -> None:
        """Wait until ``status`` and ``headers`` have come."""
        while not self._head_complete:
            await self.wait()

    def take(self) -> bytes:
        """The part of the body received since the last call; may be empty."""
        pieces = self._pieces
        if not pieces:
            self._check()
            return b""
        self._buffered = 0
        self._resume()
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return data

    async def wait(self) -> None:
        """Wait until bytes arrive or the connection closes."""
        self._check()
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None
            del waiter  # its error's traceback refers to this frame: a reference cycle

    def fail_wait(self, error: Exception) -> None:
        """Raise ``error`` in the pending wait, if there is one."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def finish(self) -> bool:
        """End the exchange and drop the unread part of its answer. Returns whether the connection can be reused.

        It can if the answer came whole and neither side wants to close.
        """
        self._pieces.clear()
        self._buffered = 0
        if not (self._complete and self._keep_alive and self.alive):
            return False
        self._resume()
        return True

    @property
    def alive(self) -> bool:
        """Whether neither side has closed it, as far as the event loop has noticed."""
        return self._transport is not None and not self._eof and not self._transport.is_closing()

    def can_send(self) -> bool:
        """Whether an idle connection may carry another request.

        Polls the socket as well: the event loop does not know yet of an EOF or a reset that has just arrived. A
        request written after either is lost, and a POST must not be sent again.
        """
        if not self.alive:
            return False
        if self._poll is None:
            assert self._transport is not None
            self._poll = select.poll()
            self._poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._poll.poll(0)

    def detach_transport(self) -> asyncio.Transport:
        """Give the transport up to another protocol. Raises ConnectionLost if it is closed already."""
        transport, self._transport = self._transport, None
        if transport is None:
            raise ConnectionLost(begun=self._begun)
        return transport

    def close(self) -> None:
        """Close an idle connection in good order."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, in the middle of an answer too: the upstream then stops generating."""
        if self._transport is not None:
            self._transport.abort()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass of it

    def data_received(self, data: bytes) -> None:
        if self._complete:  # unsolicited: no request is outstanding
            self._keep_alive = False
            self.abort()
            return
        self._begun = True
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._keep_alive = False
            if not self._complete:  # else only the bytes after a complete answer are wrong
                self._not_http = True
                self.abort()
        if self._buffered > HIGH_WATER and not self._paused and self.alive:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        self._behind = True

    def resume_writing(self) -> None:
        self._behind = False

    def eof_received(self) -> None:
        self._eof = True  # over TLS, is_closing() stays False until the transport's own shutdown is over

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if exc is None and self._head_complete and self._until_close and not self._not_http:
            self._complete = True
        self._transport = self._parser = None  # the parser holds methods of this connection: a reference cycle
        self._wake()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._transport is not None:
                self._transport.resume_reading()

    def _check(self) -> None:
        if self._not_http:
            raise NotHttp
        if self._lost and not self._complete:
            raise ConnectionLost(begun=self._begun, sent=not self._behind)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ---- callbacks of httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._complete or self._head_bytes > MAX_HEAD:
            raise NotHttp
        if self._head_complete:  # a trailer
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
        self._head_complete = True
        self._keep_alive = parser.should_keep_alive()
        headers = self.headers
        self._until_close = "content-length" not in headers and "transfer-encoding" not in headers

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._head_complete:
            self._complete = True
            self.idle_since = self._loop.time()
        else:  # an interim answer
            self.headers = {}


def request_head(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """The head of a request. ``target`` is in ASCII. Raises ValueError for a line end or NUL in any part."""
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
