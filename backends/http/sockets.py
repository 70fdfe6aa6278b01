"""WebSockets to upstreams: the addresses, certificates, proxy, times and errors of the HTTP client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson

from backends.base import Upstream
from backends.http.client import HttpClient
from backends.http.errors import read_error, translate
from catalog.errors import RoundhouseError, StreamBroken, UpstreamProtocolError
from catalog.types import Json

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection


class UpstreamSocket:
    """An open WebSocket whose messages are JSON objects."""

    def __init__(self, upstream: Upstream, connection: ClientConnection) -> None:
        self._upstream = upstream
        self._connection = connection

    async def send(self, event: Json) -> None:
        """Send one object. Raises StreamBroken once the upstream has closed."""
        from websockets.exceptions import ConnectionClosed

        try:
            await self._connection.send(orjson.dumps(event).decode())
        except ConnectionClosed:
            raise self._broken() from None

    async def receive(self) -> Json | None:
        """The next object; None after a close in good order. Raises StreamBroken, UpstreamProtocolError."""
        from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

        try:
            text = await self._connection.recv()
        except ConnectionClosedOK:
            return None
        except ConnectionClosed:
            raise self._broken() from None
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise UpstreamProtocolError(f"The endpoint '{self._upstream.endpoint}' sent no event of this API.")
        return value

    async def events(self) -> AsyncIterator[Json]:
        """The objects until a close in good order. Raises as :meth:`receive`."""
        while (event := await self.receive()) is not None:
            yield event

    def _broken(self) -> StreamBroken:
        return StreamBroken(f"The endpoint '{self._upstream.endpoint}' closed the connection.")


@asynccontextmanager
async def open_socket(
    http: HttpClient,
    upstream: Upstream,
    path: str,
    *,
    query: Mapping[str, str],
    key_header: str = "authorization",
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[UpstreamSocket]:
    """A WebSocket to ``base_url + path``, closed with the block.

    Raises the error of a handshake that is refused, as :meth:`HttpClient.open` does, and StreamBroken,
    UpstreamUnreachable or UpstreamTimeout.
    """
    from websockets.asyncio.client import connect, unix_connect
    from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

    address, all_headers, tls, proxy = http.socket_parts(upstream, path, query, key_header, headers or {})
    options: dict[str, Any] = {
        "additional_headers": all_headers,
        "user_agent_header": None,
        "compression": None,
        "open_timeout": upstream.timeouts.connect + upstream.timeouts.first_byte,
        "max_size": http.settings.max_event_bytes,
        "max_queue": 64,
    }
    if tls is not None:
        options["ssl"] = tls
    try:
        if upstream.uds is not None:
            connection = await unix_connect(upstream.uds, address, **options)
        else:
            if upstream.addresses:
                options["host"] = upstream.addresses[0]
            connection = await connect(address, proxy=proxy, **options)
    except InvalidStatus as refusal:
        response = refusal.response
        raise _refused(
            response.status_code, response.headers.raw_items(), bytes(response.body or b""), upstream
        ) from None
    except (InvalidHandshake, InvalidURI):
        raise UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' does not speak WebSocket.") from None
    except OSError as error:  # TimeoutError is one
        raise translate(error, upstream) from None
    async with connection:
        yield UpstreamSocket(upstream, connection)


def _refused(status: int, headers: Any, body: bytes, upstream: Upstream) -> RoundhouseError:
    if 200 <= status < 400:
        return UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' answered a WebSocket with {status}.")
    told = {name.lower(): value for name, value in headers}
    return read_error(status, told, body, upstream)
