"""uvicorn's WebSocket protocol as the gateway uses it: uncompressed, with a task context of its own per socket.

A message is received while no other waits: reading from the connection pauses until the handler takes it, so a
client that sends faster than its session can work is slowed down by TCP. Messages above ``ws_max_size`` close the
connection with 1009, after an ``error`` event that says so.
"""

from __future__ import annotations

import asyncio
from contextvars import Context

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

from catalog.errors import PayloadTooLarge
from server.edge.sockets.error_events import error_text
from server.scope import ABORT


class GatewaySocket(WebSocketsSansIOProtocol):
    """One WebSocket. Its scope has a function that closes the connection at once."""

    def handle_connect(self, event: Request) -> None:
        # The protocol's callbacks run in the context in which the connection was accepted, which a task copies.
        Context().run(super().handle_connect, event)

    async def run_asgi(self) -> None:
        self.scope[ABORT] = self._abort  # type: ignore[literal-required]
        await super().run_asgi()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            # The refusal is the whole answer of the handshake; uvicorn would log that none was given.
            self.handshake_complete = True

    def handle_parser_exception(self) -> None:
        if isinstance(self.conn.parser_exc, PayloadTooBig) and self.handshake_complete and not self.close_sent:
            error = PayloadTooLarge(
                f"An event has at most {self.config.ws_max_size:,} bytes (realtime.message_bytes): send its audio "
                "in pieces."
            )
            # Before the close, which the parser has prepared.
            self.transport.write(Frame(Opcode.TEXT, error_text(error)).serialize(mask=False))
        super().handle_parser_exception()

    def _abort(self) -> None:
        transport: asyncio.Transport = self.transport
        transport.abort()
