"""Connections to upstreams: a pool for each, the ones used least recently forgotten."""

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

MAX_IDLE = 128
"""Pools beyond which the idle ones are closed."""

KEEP_ALIVE_MARGIN = 1.0
"""Seconds before a server's announced idle timeout at which its connection is no longer used.

A request that crosses the server's close on the way is lost. The margin covers the network and a busy event loop.
"""
_KEEP_ALIVE_TIMEOUT = re.compile(r"\btimeout\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE)

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Pool:
    """The connections to one upstream; ``active`` counts calls, so that only an idle pool is closed."""

    def __init__(self, route: Route, *, keepalive: float) -> None:
        """``keepalive`` is seconds that an unused connection is kept."""
        self.route = route
        self.active = 0
        self._keepalive = keepalive
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def take(self) -> Connection | None:
        """A connection that has served before: the one used last, as the least likely to be closed by now.

        Send on it before the event loop runs again: its state is known for that long.
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
        """A new connection. Raises as :meth:`Route.connect` does."""
        connection = await self.route.connect(seconds)
        self._busy.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose exchange is over if it can serve again, else end it."""
        self._busy.discard(connection)
        seconds = self._keepalive
        if (announced := connection.headers.get("keep-alive")) is not None:
            seconds = min(seconds, _usable_for(announced))
        if not connection.finish() or seconds <= 0:
            connection.abort()
            return
        connection.expires_at = connection.idle_since + seconds
        self._idle.append(connection)
        if self._timer is None:  # one that is set may ring later than this one expires: take() looks, too
            self._timer = asyncio.get_running_loop().call_at(connection.expires_at, self._close_expired)

    def close(self) -> None:
        """End every connection."""
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
    """Seconds for which a connection may wait for a request, from the answer's ``Keep-Alive`` header.

    Source: RFC 2068, section 19.7.1.1; its ``max`` is ignored, as the last answer says ``Connection: close``.
    """
    found = _KEEP_ALIVE_TIMEOUT.search(keep_alive)
    return math.inf if found is None else int(found[1]) - KEEP_ALIVE_MARGIN


class Pools:
    """A pool by the upstream's socket or origin, made on first use."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._proxy = URL(settings.proxy.get_secret_value()) if settings.proxy else None
        self._pools: dict[tuple[str, ...], Pool] = {}
        self._tls: ssl.SSLContext | None = None

    def __len__(self) -> int:
        return len(self._pools)

    def take(self, upstream: Upstream, url: URL) -> Pool:
        """The pool for one call more, until :meth:`give_back`; the ones used last stay."""
        key = ("unix", upstream.uds) if upstream.uds else (url.scheme, url.raw_authority, *upstream.addresses)
        pool = self._pools.pop(key, None)
        if pool is None:
            pool = self._new(upstream, url)
        self._pools[key] = pool
        pool.active += 1
        return pool

    def give_back(self, pool: Pool) -> None:
        """The call is over."""
        pool.active -= 1
        if len(self._pools) > MAX_IDLE:
            self.forget_idle(MAX_IDLE)

    def forget_idle(self, keep: int) -> None:
        """Close the pools used least recently until ``keep`` are left; one with a call in it stays."""
        for key, pool in list(self._pools.items()):
            if len(self._pools) <= keep:
                return
            if pool.active == 0:
                del self._pools[key]
                pool.close()

    async def aclose(self) -> None:
        """Close them all."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        await asyncio.sleep(0)  # the event loop closes sockets in its next round

    def _new(self, upstream: Upstream, url: URL) -> Pool:
        settings = self._settings
        route = Route(
            url,
            uds=upstream.uds,
            addresses=upstream.addresses,
            proxy=None if url.host in _LOOPBACK else self._proxy,
            tls=self._tls_context,
        )
        return Pool(route, keepalive=0 if upstream.uds else settings.keepalive)

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            if self._settings.ca_file is not None:
                self._tls = ssl.create_default_context(cafile=str(self._settings.ca_file))
            else:
                # Imported where it serves: it knows the usual set of certificates, and nothing else here needs it.
                import httpx

                self._tls = httpx.create_ssl_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls
