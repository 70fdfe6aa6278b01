"""uvicorn's HTTP protocol with limits that it lacks: a deadline and a size for headers; and with stricter heads.

An offer to upgrade to anything but a WebSocket is ignored, as RFC 9110 (section 7.8) allows, trailers are dropped,
and a request with two ``Host`` or ``Authorization`` headers is refused: another server on its way might have read
the other one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from catalog.errors import HeadersTooLarge, InvalidRequest, RoundhouseError, Unavailable
from server.edge.descriptors import DescriptorReserve
from server.edge.disconnect import ClientConnection
from server.edge.heads import request_id
from server.scope import ABORT, BODY_HERE, CONNECTION
from server.settings import ServerSettings

LINGER = 1.0
"""Seconds that a refused client may go on sending its body, so that it reads the refusal."""

_OFFER = (b"upgrade", b"http2-settings")
_ONCE = (b"host", b"authorization")
_PHRASES = {400: b"Bad Request", 431: b"Request Header Fields Too Large", 503: b"Service Unavailable"}


def protocol_for(settings: ServerSettings) -> type[asyncio.Protocol]:
    """The protocol class with these settings' limits and this process's descriptors; uvicorn takes a class."""

    class Protocol(BoundedProtocol):
        limits = settings
        descriptors = DescriptorReserve()

    return Protocol


class HeadFirst(asyncio.Transport):
    """A transport for one answer that sends the first write, the head, together with the second.

    uvicorn writes them separately, and each write is a system call that wakes the client. A head without an
    immediate second write is sent by itself.
    """

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        head = self._head
        if head is None:
            self._transport.write(data)
        elif head:
            self._head = None
            self._transport.writelines((head, data))
        else:
            self._head = bytes(data)
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head:
            self._transport.write(head)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol with bounded and unambiguous headers, and refusals as JSON.

    It has slots: with more than thirty attributes Python stops sharing the keys of instance dictionaries, and each
    connection would take 1.3 kB more.
    """

    __slots__ = ("_connection", "_deadline", "_header_bytes", "_in_head", "_refusal")

    limits: ServerSettings
    descriptors: DescriptorReserve

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._deadline: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._in_head = True
        self._refusal: RoundhouseError | None = None
        self._connection: ClientConnection | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connection = ClientConnection(self.flow.resume_reading)
        self._arm(self.limits.timeouts.headers)
        descriptor = transport.get_extra_info("socket").fileno()
        if self.descriptors.exhausts(descriptor):
            self.descriptors.warn()
            self._refusal = Unavailable("This server has too many connections open. Try again.", retry_after=1)
            if self.descriptors.is_last(descriptor):
                self.send_400_response("")

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)
        if self._connection is not None:
            self._connection.lose()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                self.logger.warning("Invalid HTTP request received.")
                self.send_400_response("Invalid HTTP request received.")
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
                if self._is_websocket():
                    self._disarm()
                    self.handle_websocket_upgrade()
                    if rest:
                        self.transport.get_protocol().data_received(rest)  # type: ignore[attr-defined]
                elif self._offered():
                    data = self._head_without_offer() + rest
                    self.parser = httptools.HttpRequestParser(self)
                    with suppress(AttributeError):  # httptools before 0.6.3
                        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                    continue
            return

    def _offered(self) -> bool:
        """Whether the request offers to change to another protocol, which the parser takes as its end."""
        return bool(self.parser.should_upgrade()) and any(name == b"upgrade" for name, _ in self.headers)

    def _is_websocket(self) -> bool:
        """Whether the request asks for a WebSocket (RFC 6455, section 4.1)."""
        names = {name for name, _ in self.headers}
        return (
            self.ws_protocol_class is not None
            and self._offered()
            and self.parser.get_method() == b"GET"
            and b"sec-websocket-key" in names
            and (b"upgrade", b"websocket") in [(name, value.lower()) for name, value in self.headers]
        )

    def _head_without_offer(self) -> bytes:
        """The head that was parsed, as bytes, without the offer."""
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = [option for option in value.split(b",") if option.strip().lower() not in _OFFER]
                if options:
                    lines.append(name + b": " + b",".join(options))
            elif name not in _OFFER:
                lines.append(name + b": " + value)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._header_bytes = 0
        if self._deadline is None:
            self._arm(self.limits.timeouts.headers)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        if not self._in_head:
            return
        super().on_header(name, value)
        if len(self.headers) > self.limits.limits.headers:
            self._refuse()

    def on_headers_complete(self) -> None:
        self._in_head = False
        socket = self._is_websocket()
        if self._offered() and not socket:
            return
        names = [name for name, _ in self.headers]
        for name in _ONCE:
            if names.count(name) > 1:
                self._refusal = InvalidRequest(f"The request has two '{name.decode()}' headers. Send one.")
                raise self._refusal
        if socket:
            if self._refusal is not None:
                raise self._refusal
            self.scope["method"] = "GET"
            return
        self._disarm()
        if self._refusal is not None:
            raise self._refusal
        self.scope[CONNECTION] = self._connection  # type: ignore[literal-required]
        self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]
        super().on_headers_complete()
        self.cycle.transport = HeadFirst(self.transport, self.loop)

    def on_message_complete(self) -> None:
        if self._offered():
            return
        self._disarm()
        self.scope[BODY_HERE] = True  # type: ignore[literal-required]
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.cycle is not None and self.cycle.more_body:
            self._arm(LINGER)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        error = self._refusal or InvalidRequest(msg)
        body = orjson.dumps(error.to_body())
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"x-request-id: %s\r\n%sconnection: close\r\n\r\n%s"
            % (error.status, _PHRASES[error.status], len(body), request_id(None).encode(), _lines(error), body)
        )
        self.transport.close()

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self.limits.limits.header_bytes:
            self._refuse()

    def _refuse(self) -> None:
        self._refusal = self._refusal or HeadersTooLarge("The headers are too large.")
        raise self._refusal  # httptools turns it into its own error, which uvicorn answers with send_400_response

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.transport is not None:
            self.transport.abort()


def _lines(error: RoundhouseError) -> bytes:
    return "".join(f"{name.lower()}: {value}\r\n" for name, value in error.headers().items()).encode()
