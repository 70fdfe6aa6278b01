"""Connections to upstreams: a pool for each, the ones used least recently forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from contextvars import ContextVar
from dataclasses import dataclass

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace
from yarl import URL

from backends.base import Upstream
from backends.http_clock import patience
from backends.settings import BackendSettings

MAX_IDLE = 128
"""Pools beyond which the idle ones are closed."""

_CLOSE_WAIT = 1.0
_UNTIMED = aiohttp.ClientTimeout()
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

new_connection_made: ContextVar[bool] = ContextVar("new_connection_made", default=False)
"""Set within the task that makes a request, when no kept-alive connection served it."""


class _Patient(aiohttp.BaseConnector):
    """Times a new connection by :func:`backends.http_clock.patience` in place of aiohttp's plain timer."""

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        async with patience(timeout.sock_connect):
            return await super()._create_connection(req, traces, _UNTIMED)


class _TCPConnector(_Patient, aiohttp.TCPConnector):
    """Tells whether a connection is new. aiohttp's own hooks for it cost as much as the rest of taking one."""

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        new_connection_made.set(True)
        return await super()._create_connection(req, traces, timeout)


class _UnixConnector(_Patient, aiohttp.UnixConnector):
    """A worker's socket."""


@dataclass(slots=True)
class Pool:
    """The connections to one upstream; ``active`` counts calls, so that only an idle pool is closed."""

    session: aiohttp.ClientSession
    active: int = 0

    async def aclose(self) -> None:
        """Close the connections; one whose peer no longer reads what was sent to it is not waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_WAIT):
                await self.session.close()


class Pools:
    """A pool by the upstream's socket or origin, made on first use."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._pools: dict[tuple[str, str], Pool] = {}
        self._tls: ssl.SSLContext | None = None

    def __len__(self) -> int:
        return len(self._pools)

    def take(self, upstream: Upstream, url: URL) -> Pool:
        """The pool for one call more, until :meth:`give_back`; the ones used last stay."""
        key = ("unix", upstream.uds) if upstream.uds else (url.scheme, url.raw_authority)
        pool = self._pools.pop(key, None)
        if pool is None:
            pool = Pool(self._session(upstream, url))
        self._pools[key] = pool
        pool.active += 1
        return pool

    async def give_back(self, pool: Pool) -> None:
        """The call is over."""
        pool.active -= 1
        if len(self._pools) > MAX_IDLE:
            await self.forget_idle(MAX_IDLE)

    async def forget_idle(self, keep: int) -> None:
        """Close the pools used least recently until ``keep`` are left; one with a call in it stays."""
        for key, pool in list(self._pools.items()):
            if len(self._pools) <= keep:
                return
            if pool.active == 0 and self._pools.pop(key, None) is not None:
                await pool.aclose()

    async def aclose(self) -> None:
        """Close them all."""
        pools = list(self._pools.values())
        self._pools.clear()
        for pool in pools:
            await pool.aclose()

    def _session(self, upstream: Upstream, url: URL) -> aiohttp.ClientSession:
        settings = self._settings
        connector: aiohttp.BaseConnector
        if upstream.uds is not None:
            # llama-server closes kept-alive connections as it likes, and a new one costs about nothing.
            connector = _UnixConnector(path=upstream.uds, force_close=True, limit=0)
        else:
            connector = _TCPConnector(
                limit=settings.max_connections,
                keepalive_timeout=settings.keepalive,
                ssl=self._tls_context() if url.scheme == "https" else True,
            )
        here = upstream.uds is not None or url.host in _LOOPBACK
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            proxy=settings.proxy.get_secret_value() if settings.proxy and not here else None,
        )

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            if self._settings.ca_file is not None:
                self._tls = ssl.create_default_context(cafile=str(self._settings.ca_file))
            else:
                # Imported where it serves: it knows the usual set of certificates, and nothing else here needs it.
                import httpx

                self._tls = httpx.create_ssl_context()
        return self._tls
