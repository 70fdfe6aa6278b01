"""The way to an upstream: a Unix socket, TCP, TLS over it, or either through a proxy.

Source of the proxy's part: RFC 9112, "absolute-form" (http) and RFC 9110, "CONNECT" (https).
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import aiohappyeyeballs
from yarl import URL

from backends.http.clock import patience
from backends.http.connection import Connection, ConnectionLost, request_head

_SECOND_ADDRESS_AFTER = 0.25
"""Seconds until the next address is tried beside one that does not answer (RFC 8305 recommends them)."""


class ProxyRefused(OSError):
    """The proxy does not let us through."""


class Route:
    """How to reach one origin, over and over."""

    def __init__(
        self,
        url: URL,
        *,
        uds: str | None = None,
        addresses: Sequence[str] = (),
        proxy: URL | None = None,
        tls: Callable[[], ssl.SSLContext],
    ) -> None:
        """``addresses`` are the origin's, where they are known: then its name is not looked up.

        ``proxy`` is an http:// URL, with a user and a password if it wants them.
        """
        self._origin = url.origin()
        self._uds = uds
        self._addresses = addresses
        self._proxy = proxy if uds is None and not addresses else None
        self._tls = tls if url.scheme == "https" and uds is None else None
        self.headers: Mapping[str, str] = {"host": self._origin.host_port_subcomponent or ""}
        """What every request on this way carries."""
        if uds is not None:
            # llama-server closes kept-alive connections as it likes, and a new one costs about nothing.
            self.headers = {**self.headers, "connection": "close"}
        elif self._proxy is not None and self._tls is None:
            self.headers = {**self.headers, **_proxy_authorization(self._proxy)}

    def target(self, url: URL) -> str:
        """What a request's first line says of its address."""
        if self._proxy is not None and self._tls is None:
            return f"{self._origin}{url.raw_path_qs}"
        return url.raw_path_qs

    async def connect(self, seconds: float) -> Connection:
        """A new connection, the name's lookup included in the ``seconds``.

        Raises TimeoutError, OSError (ssl.SSLError and socket.gaierror are some), ConnectionLost or NotHttp (by the
        proxy).
        """
        async with patience(seconds):
            loop = asyncio.get_running_loop()
            if self._uds is not None:
                _, connection = await loop.create_unix_connection(lambda: Connection(loop), self._uds)
                return connection
            if self._proxy is None:
                return await _connect(self._origin, self._addresses, None if self._tls is None else self._tls())
            connection = await _connect(self._proxy, (), None)
            return connection if self._tls is None else await self._tunnel(connection, self._tls())

    async def _tunnel(self, connection: Connection, tls: ssl.SSLContext) -> Connection:
        """TLS with the origin through the proxy that ``connection`` goes to."""
        assert self._proxy is not None
        loop = asyncio.get_running_loop()
        try:
            there = f"{self._origin.host_subcomponent}:{self._origin.port}"
            headers = {"host": there, **_proxy_authorization(self._proxy)}
            connection.send(request_head("CONNECT", there, headers, None), None)
            await connection.head()
            if not 200 <= connection.status < 300:
                raise ProxyRefused(f"the proxy answered with HTTP {connection.status}")
            through = Connection(loop)
            transport = await loop.start_tls(
                connection.hand_over(), through, tls, server_hostname=self._origin.raw_host
            )
            if transport is None:
                raise ConnectionLost(begun=False)
            through.connection_made(transport)
            return through
        except BaseException:
            connection.abort()
            raise


async def _connect(to: URL, addresses: Sequence[str], tls: ssl.SSLContext | None) -> Connection:
    loop = asyncio.get_running_loop()
    host, port = to.raw_host or "", to.port or 80
    found = [
        one
        for name in addresses or (host,)
        # Nobody is asked about an address; it may come without a thread for it, too.
        for one in await loop.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST if addresses else 0
        )
    ]
    sock = await aiohappyeyeballs.start_connection(
        found, happy_eyeballs_delay=_SECOND_ADDRESS_AFTER, interleave=1, loop=loop
    )
    secure: dict[str, Any] = {} if tls is None else {"ssl": tls, "server_hostname": host}
    try:
        _, connection = await loop.create_connection(lambda: Connection(loop), sock=sock, **secure)
    except BaseException:
        sock.close()
        raise
    return connection


def _proxy_authorization(proxy: URL) -> Mapping[str, str]:
    if not proxy.raw_user:
        return {}
    credentials = f"{unquote(proxy.raw_user)}:{unquote(proxy.raw_password or '')}"
    return {"proxy-authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}
