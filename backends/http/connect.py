"""Routes to an upstream: a Unix socket, TCP, TLS over TCP, or the latter two through an HTTP proxy.

Sources for proxies: RFC 9112, "absolute-form" (http) and RFC 9110, "CONNECT" (https).
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

from backends.http.connection import Connection, ConnectionLost, request_head
from backends.http.deadlines import fair_timeout

_SECOND_ADDRESS_AFTER = 0.25
"""Seconds until the next address is tried beside one that does not answer (RFC 8305's recommendation)."""


class ProxyRefused(OSError):
    """The proxy refused the tunnel: its answer to CONNECT was not 2xx."""


class Route:
    """How to reach one origin; makes connections to it."""

    def __init__(
        self,
        url: URL,
        *,
        uds: str | None = None,
        addresses: Sequence[str] = (),
        proxy: URL | None = None,
        tls: Callable[[], ssl.SSLContext],
        once: bool = False,
    ) -> None:
        """``addresses`` are the origin's IP addresses; given, its name is not looked up and no proxy is used.

        ``proxy`` is an http:// URL, with user and password if the proxy needs them. ``tls`` makes the context of
        an https origin. With ``once``, each request has a connection of its own.
        """
        self._origin = url.origin()
        self.once = once
        self._uds = uds
        self._addresses = addresses
        self._proxy = proxy if uds is None and not addresses else None
        self._tls = tls if url.scheme == "https" and uds is None else None
        self.headers: Mapping[str, str] = {"host": self._origin.host_port_subcomponent or ""}
        """Headers of every request on this route."""
        if once:
            # llama-server may close a kept-alive connection at any time, and a new one costs almost nothing.
            self.headers = {**self.headers, "connection": "close"}
        elif self._proxy is not None and self._tls is None:
            self.headers = {**self.headers, **_proxy_authorization(self._proxy)}

    def target(self, url: URL) -> str:
        """The request target for ``url``: its path and query, or all of it for an http proxy."""
        if self._proxy is not None and self._tls is None:
            return f"{self._origin}{url.raw_path_qs}"
        return url.raw_path_qs

    async def connect(self, seconds: float) -> Connection:
        """Open a connection, within ``seconds`` that include the name's lookup.

        Raises TimeoutError, OSError (ssl.SSLError and socket.gaierror are subclasses of it), and for a proxy also
        ConnectionLost or NotHttp.
        """
        async with fair_timeout(seconds):
            loop = asyncio.get_running_loop()
            if self._uds is not None:
                _, connection = await loop.create_unix_connection(lambda: Connection(loop), self._uds)
                return connection
            if self._proxy is None:
                return await _connect(self._origin, self._addresses, None if self._tls is None else self._tls())
            connection = await _connect(self._proxy, (), None)
            return connection if self._tls is None else await self._tunnel(connection, self._tls())

    async def _tunnel(self, connection: Connection, tls: ssl.SSLContext) -> Connection:
        """Open a TLS connection to the origin through the proxy at the end of ``connection``."""
        assert self._proxy is not None
        loop = asyncio.get_running_loop()
        try:
            target = f"{self._origin.host_subcomponent}:{self._origin.port}"
            headers = {"host": target, **_proxy_authorization(self._proxy)}
            connection.send(request_head("CONNECT", target, headers, None), None)
            await connection.read_head()
            if not 200 <= connection.status < 300:
                raise ProxyRefused(f"the proxy answered with HTTP {connection.status}")
            tunnelled = Connection(loop)
            transport = await loop.start_tls(
                connection.detach_transport(), tunnelled, tls, server_hostname=self._origin.raw_host
            )
            if transport is None:
                raise ConnectionLost(begun=False)
            tunnelled.connection_made(transport)
            return tunnelled
        except BaseException:
            connection.abort()
            raise


async def _connect(to: URL, addresses: Sequence[str], tls: ssl.SSLContext | None) -> Connection:
    loop = asyncio.get_running_loop()
    host, port = to.raw_host or "", to.port or 80
    found = [
        one
        for name in addresses or (host,)
        # An IP address needs no DNS query, and with this flag no thread.
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
