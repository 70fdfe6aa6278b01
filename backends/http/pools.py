"""Connections to upstreams: a pool for each, the ones used least recently forgotten."""

from __future__ import annotations

import asyncio
import ssl

from yarl import URL

from backends.base import Upstream
from backends.http.connect import Route
from backends.http.connection import Connection
from backends.settings import BackendSettings

MAX_IDLE = 128
"""Pools beyond which the idle ones are closed."""

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
        """A connection that has served before: the one used last, as the least likely to be closed by now."""
        while self._idle:
            connection = self._idle.pop()
            if connection.alive:
                self._busy.add(connection)
                return connection
        return None

    async def connect(self, seconds: float) -> Connection:
        """A new connection. Raises as :meth:`Route.connect` does."""
        connection = await self.route.connect(seconds)
        self._busy.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose exchange is over if it can serve again, else end it."""
        self._busy.discard(connection)
        if not connection.finish() or self._keepalive <= 0:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._timer is None:
            self._timer = loop.call_later(self._keepalive, self._close_old)

    def close(self) -> None:
        """End every connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in (*self._idle, *self._busy):
            connection.abort()
        self._idle.clear()
        self._busy.clear()

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        due = loop.time() - self._keepalive
        kept: list[Connection] = []
        for connection in self._idle:
            if connection.alive and connection.idle_since > due:
                kept.append(connection)
            else:
                connection.close()
        self._idle = kept
        if kept:
            oldest = min(connection.idle_since for connection in kept)
            self._timer = loop.call_at(oldest + self._keepalive, self._close_old)


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
