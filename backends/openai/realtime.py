"""OpenAI's realtime sessions over a WebSocket, for callers of the same API."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from backends.base import Upstream
from backends.http.client import HttpClient
from backends.http.sockets import open_socket
from backends.wire.realtime import RealtimeRequest
from catalog.errors import RequestFailed, StreamBroken
from catalog.types import Json

PATH = "/realtime"


async def converse(
    http: HttpClient, upstream: Upstream, request: RealtimeRequest, *, path: str, key_header: str
) -> AsyncGenerator[Json]:
    """Open a session: yields its ``session.created`` and keeps the connection open until it is closed."""
    query = {"intent": "transcription"} if request.transcribes else {"model": upstream.model}
    async with open_socket(http, upstream, path, query=query, key_header=key_header) as socket:
        first = await socket.receive()
        if first is None:
            raise StreamBroken(f"The endpoint '{upstream.endpoint}' closed the session at once.")
        if first["type"] == "error":
            told = first.get("error") if isinstance(first.get("error"), dict) else {}
            raise RequestFailed(
                f"The endpoint '{upstream.endpoint}' refused the session: {told.get('message')}"[:400]
            )
        request.opened(socket)
        yield first
