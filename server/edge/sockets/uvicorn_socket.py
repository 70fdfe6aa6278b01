"""uvicorn's WebSocket protocol as the gateway uses it: uncompressed, with a task context of its own per socket.

A message is received while no other waits: reading from the connection pauses until the handler takes it, so a
client that sends faster than its session can work is slowed down by TCP. Messages above ``ws_max_size`` close the
connection with 1009.
"""

from __future__ import annotations

import asyncio
from contextvars import Context

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from server.scope import ABORT


class GatewaySocket(WebSocketsSansIOProtocol):
    """One WebSocket. Its scope has a function that closes the connection at once."""

    def handle_connect(self, event: Request) -> None:
        # The protocol's callbacks run in the context in which the connection was accepted, which a task copies.
        Context().run(super().handle_connect, event)

    async def run_asgi(self) -> None:
        self.scope[ABORT] = self._abort  # type: ignore[literal-required]
        await super().run_asgi()

    def _abort(self) -> None:
        transport: asyncio.Transport = self.transport
        transport.abort()
