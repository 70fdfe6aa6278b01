"""OpenAI's realtime sessions over a WebSocket, for callers of the same API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, ClassVar

from backends.base import Upstream
from backends.http.client import HttpClient
from backends.http.sockets import open_socket
from backends.wire.audio import RealtimeRequest
from catalog.errors import RequestFailed, StreamBroken
from catalog.types import Json

PATH = "/realtime"


class RealtimeCalls:
    """The part of OpenAI's backend that opens sessions."""

    http: HttpClient
    key_header: ClassVar[str]

    def path(self, upstream: Upstream, path: str) -> str:
        """The path below this upstream's address for ``path`` of OpenAI's API."""
        del upstream
        return path

    def converse(self, upstream: Upstream, request: RealtimeRequest) -> AsyncGenerator[Json]:
        """See :class:`backends.base.Converse`."""
        return _session(self.http, upstream, request, path=self.path(upstream, PATH), key_header=self.key_header)


async def _session(
    http: HttpClient, upstream: Upstream, request: RealtimeRequest, *, path: str, key_header: str
) -> AsyncGenerator[Json]:
    """Open a session: yields its ``session.created`` and keeps the connection open until it is closed."""
    query = {"intent": "transcription"} if request.transcribes else {"model": upstream.model}
    async with open_socket(http, upstream, path, query=query, key_header=key_header) as socket:
        first = await socket.receive()
        if first is None:
            raise StreamBroken(f"The endpoint '{upstream.endpoint}' closed the session at once.")
        if first["type"] == "error":
            told: Any = first.get("error")
            message = told.get("message") if isinstance(told, dict) else None
            raise RequestFailed(f"The endpoint '{upstream.endpoint}' refused the session: {message}"[:400])
        request.opened(socket)
        yield first
