"""Pools of connections, one for each upstream; those of the least recently used upstreams are closed."""

from __future__ import annotations

import asyncio
import math
import re
import ssl

from yarl import URL

from backends.base import Upstream
from backends.http.connect import Route
from backends.http.connection import Connection
from backends.settings import BackendSettings

MAX_POOLS = 128
"""Pools that may be open; past this number, those without a call are closed."""

KEEP_ALIVE_MARGIN = 1.0
"""Seconds before a server's announced idle timeout at which its connection is no longer used.

A request that crosses the server's close on the way is lost. The margin covers the network and a busy event loop.
"""
_KEEP_ALIVE_TIMEOUT = re.compile(r"\btimeout\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE)

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Pool:
    """The connections to one upstream. ``active`` counts the calls that use it; at 0 it may be closed."""

    def __init__(self, route: Route, *, keepalive: float) -> None:
        """``keepalive`` is how many seconds an idle connection is kept at most; 0 keeps none."""
        self.route = route
        self.active = 0
        self._keepalive = keepalive
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def take(self) -> Connection | None:
        """An idle connection that is still open: the last one used, as it is the least likely to be closed by now.

        Write the request before the next await: the upstream may close the connection during it.
        """
        if not self._idle:
            return None
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.expires_at > now and connection.can_send():
                self._busy.add(connection)
                return connection
            connection.close()
        return None

    async def connect(self, seconds: float) -> Connection:
        """Open a connection. Raises as :meth:`Route.connect` does."""
        connection = await self.route.connect(seconds)
        self._busy.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """End a connection's exchange; keep the connection if it can be reused, else abort it."""
        self._busy.discard(connection)
        seconds = self._keepalive
        if (announced := connection.headers.get("keep-alive")) is not None:
            seconds = min(seconds, _usable_for(announced))
        if not connection.finish() or seconds <= 0:
            connection.abort()
            return
        connection.expires_at = connection.idle_since + seconds
        self._idle.append(connection)
        if self._timer is None:  # a timer set earlier may fire after this expiry, so take() checks it as well
            self._timer = asyncio.get_running_loop().call_at(connection.expires_at, self._close_expired)

    def close(self) -> None:
        """Abort every connection, calls in progress included."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in (*self._idle, *self._busy):
            connection.abort()
        self._idle.clear()
        self._busy.clear()

    def _close_expired(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        now = loop.time()
        kept: list[Connection] = []
        for connection in self._idle:
            if connection.alive and connection.expires_at > now:
                kept.append(connection)
            else:
                connection.close()
        self._idle = kept
        if kept:
            first = min(connection.expires_at for connection in kept)
            self._timer = loop.call_at(first, self._close_expired)


def _usable_for(keep_alive: str) -> float:
    """Seconds for which an idle connection may be used, by the answer's ``Keep-Alive`` header.

    Source: RFC 2068, section 19.7.1.1. ``max`` is ignored: the last answer says ``Connection: close``.
    """
    found = _KEEP_ALIVE_TIMEOUT.search(keep_alive)
    return math.inf if found is None else int(found[1]) - KEEP_ALIVE_MARGIN


class Pools:
    """The pools of one client by the upstream's socket or origin, made on first use."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._proxy = URL(settings.proxy.get_secret_value()) if settings.proxy else None
        self._pools: dict[tuple[str, ...], Pool] = {}
        self._tls: ssl.SSLContext | None = None

    def __len__(self) -> int:
        return len(self._pools)

    def take(self, upstream: Upstream, url: URL) -> Pool:
        """The pool of an upstream, for one call until :meth:`give_back`. Marks it as the last one used."""
        key = ("unix", upstream.uds) if upstream.uds else (url.scheme, url.raw_authority, *upstream.addresses)
        pool = self._pools.pop(key, None)
        if pool is None:
            pool = self._new(upstream, url)
        self._pools[key] = pool
        pool.active += 1
        return pool

    def give_back(self, pool: Pool) -> None:
        """End a call's use of a pool."""
        pool.active -= 1
        if len(self._pools) > MAX_POOLS:
            self.close_idle(MAX_POOLS)

    def close_idle(self, keep: int) -> None:
        """Close the least recently used pools until ``keep`` are left. Pools in use stay open."""
        for key, pool in list(self._pools.items()):
            if len(self._pools) <= keep:
                return
            if pool.active == 0:
                del self._pools[key]
                pool.close()

    async def aclose(self) -> None:
        """Close every pool."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        await asyncio.sleep(0)  # the event loop closes the sockets in its next iteration

    def _new(self, upstream: Upstream, url: URL) -> Pool:
        settings = self._settings
        route = Route(
            url,
            uds=upstream.uds,
            addresses=upstream.addresses,
            proxy=None if url.host in _LOOPBACK else self._proxy,
            tls=self._tls_context,
            once=upstream.ours or upstream.uds is not None,
        )
        return Pool(route, keepalive=0 if route.once else settings.keepalive)

    def way_to(self, url: URL) -> tuple[ssl.SSLContext | None, str | None]:
        """The certificates to trust, for an https origin, and the proxy on the way to it."""
        proxy = None if url.host in _LOOPBACK or self._proxy is None else str(self._proxy)
        return self._tls_context() if url.scheme == "https" else None, proxy

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            if self._settings.ca_file is not None:
                self._tls = ssl.create_default_context(cafile=str(self._settings.ca_file))
            else:
                # Imported here as only its default set of certificates is needed.
                import httpx

                self._tls = httpx.create_ssl_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls
