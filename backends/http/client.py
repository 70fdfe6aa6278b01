"""The HTTP client: a connection pool per upstream, four timeouts per call, size limits, typed errors."""

from __future__ import annotations

import asyncio
import copy
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import orjson
from yarl import URL

from backends.base import Upstream
from backends.http.connection import Connection, ConnectionLost, request_head
from backends.http.deadlines import DeadlinePassed, Deadlines
from backends.http.errors import TRANSPORT_ERRORS, ErrorReader, misconfigured, read_error, translate
from backends.http.multipart import FormField, FormFile, multipart
from backends.http.pools import Pool, Pools
from backends.http.response import UpstreamResponse
from backends.notices import note
from backends.settings import BackendSettings
from catalog.errors import InvalidRequest

Signer = Callable[[Upstream, str, URL, Mapping[str, str], bytes | None], Awaitable[Mapping[str, str]]]
"""Gives the headers that authenticate a request. Arguments: its upstream, method, address, headers and body.

It is awaited within the call's ``first_byte``, and raises only :mod:`catalog.errors`.
"""

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods whose requests may be sent a second time (RFC 9110, section 9.2.2)."""


class HttpClient:
    """Calls upstreams. Close it with ``aclose`` or use it as an async context manager.

    Every method raises only :mod:`catalog.errors`, and no message contains an upstream's key. Redirects are not
    followed, cookies not kept, and no proxy is read from the environment.
    """

    def __init__(
        self, settings: BackendSettings | None = None, *, propagate: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        """``propagate`` returns the trace context headers of the current call (such as ``traceparent``)."""
        self.settings = settings or BackendSettings()
        self._propagate = propagate
        self._pools = Pools(self.settings)
        self._at_close: list[Callable[[], Awaitable[None]]] = []
        self._signer: Signer | None = None

    def signed(self, signer: Signer) -> HttpClient:
        """This client, with its connections, whose requests ``signer`` authenticates."""
        view = copy.copy(self)
        view._signer = signer
        return view

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection, and what :meth:`at_close` was told of."""
        while self._at_close:
            await self._at_close.pop()()
        await self._pools.aclose()

    def at_close(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call ``close`` when this client is closed: for a backend's resources, which live as long."""
        self._at_close.append(close)

    def close_idle(self) -> None:
        """Close the connections to every upstream that has no call in progress."""
        self._pools.close_idle(keep=0)

    def open(
        self,
        upstream: Upstream,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        data: Sequence[FormField] = (),
        files: Sequence[FormFile] = (),
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        key_header: str = "authorization",
        errors: ErrorReader = read_error,
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        """Call ``base_url + path``; entering returns the response once its headers have come with a 2xx status.

        The body is ``json``, ``content``, or a multipart form of ``data`` and ``files``. The upstream's key goes
        into ``key_header``, as a bearer token if that is ``authorization``. Leaving the block closes the response,
        which cancels a call whose answer is not complete.

        Raises the error that ``errors`` makes of any other status; UpstreamUnreachable, UpstreamTimeout or
        UpstreamProtocolError without an answer; StreamBroken if its head is cut short; and InvalidRequest if
        ``json`` cannot be encoded.
        """
        all_headers = {
            "accept-encoding": "identity",
            "user-agent": "roundhouse",
            **self._propagate(),
            **{name.lower(): value for name, value in upstream.headers.items()},
            **(headers or {}),
        }
        if upstream.api_key:
            bearer = key_header.lower() == "authorization"
            all_headers[key_header] = f"Bearer {upstream.api_key}" if bearer else upstream.api_key
        if json is not None:
            content = _dumps(json)
            all_headers["content-type"] = "application/json"
        elif files:
            content, all_headers["content-type"] = multipart(data, files)
        url = _address(upstream, path)
        if upstream.query or query:
            url = url.update_query({**upstream.query, **(query or {})})
        return _Call(self._pools, self.settings, upstream, method, url, content, all_headers, errors, self._signer)

    def socket_parts(
        self,
        upstream: Upstream,
        path: str,
        query: Mapping[str, str],
        key_header: str,
        headers: Mapping[str, str],
    ) -> tuple[str, dict[str, str], ssl.SSLContext | None, str | None]:
        """The parameters of a WebSocket to ``base_url + path``: address, headers, certificates and proxy, if any.

        Raises UpstreamError for an address that is not valid.
        """
        all_headers = {"user-agent": "roundhouse", **self._propagate(), **upstream.headers, **headers}
        if upstream.api_key:
            bearer = key_header.lower() == "authorization"
            all_headers[key_header] = f"Bearer {upstream.api_key}" if bearer else upstream.api_key
        url = _address(upstream, path).update_query({**upstream.query, **query})
        secure = url.scheme == "https"
        tls, proxy = self._pools.way_to(url)
        direct = upstream.uds is not None or bool(upstream.addresses)
        address = str(url.with_scheme("wss" if secure else "ws"))
        return address, all_headers, tls if secure else None, None if direct else proxy

    async def get_json(self, upstream: Upstream, path: str, **options: Any) -> Any:
        """GET a JSON document. ``options`` are those of :meth:`open`."""
        async with self.open(upstream, "GET", path, **options) as response:
            return await response.json()

    async def post_json(self, upstream: Upstream, path: str, body: Any, *, room: int = 0, **options: Any) -> Any:
        """POST a JSON document and return the one in the answer, which may take ``room`` bytes more than others.

        ``options`` are those of :meth:`open`.
        """
        async with self.open(upstream, "POST", path, json=body, **options) as response:
            return await response.json(room=room)


class _Call:
    """One call: entering sends the request, leaving closes the response."""

    __slots__ = (
        "_body", "_connection", "_deadlines", "_errors", "_headers", "_method", "_pool", "_pools", "_settings",
        "_signer", "_upstream", "_url",
    )  # fmt: skip

    def __init__(
        self,
        pools: Pools,
        settings: BackendSettings,
        upstream: Upstream,
        method: str,
        url: URL,
        body: bytes | None,
        headers: dict[str, str],
        errors: ErrorReader,
        signer: Signer | None,
    ) -> None:
        self._pools = pools
        self._settings = settings
        self._upstream = upstream
        self._method = method
        self._url = url
        self._body = body
        self._headers = headers
        self._errors = errors
        self._signer = signer
        self._deadlines: Deadlines
        self._pool: Pool
        self._connection: Connection | None = None

    async def __aenter__(self) -> UpstreamResponse:
        self._deadlines = Deadlines(self._upstream)
        self._pool = self._pools.take(self._upstream, self._url)
        if self._upstream.life is not None:
            self._upstream.life.add(self._sever)
        try:
            if self._signer is not None:
                await self._sign(self._signer)
            connection = await self._send()
            self._body = None  # else a long stream holds a copy of its prompt to the end
            answer = UpstreamResponse(connection, self._upstream, self._deadlines, self._settings)
            if not 200 <= answer.status < 300:
                body = await answer.error_body(self._settings.max_error_bytes)
                raise self._errors(answer.status, answer.headers, body, self._upstream)
            if self._upstream.ours:
                note(answer.headers)
        except BaseException:
            self._close()
            raise
        return answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _sever(self) -> None:
        """End the exchange: its server is gone."""
        if self._connection is not None:
            self._connection.abort()

    def _close(self) -> None:
        self._deadlines.close()
        if self._upstream.life is not None:
            self._upstream.life.discard(self._sever)
        if self._connection is not None:
            self._pool.give_back(self._connection)
        self._pools.give_back(self._pool)

    async def _sign(self, signer: Signer) -> None:
        """Add what authenticates the request. The time for it is part of ``first_byte``."""
        try:
            async with asyncio.timeout_at(self._deadlines.first_byte_by()):
                self._headers |= await signer(self._upstream, self._method, self._url, self._headers, self._body)
        except TimeoutError:
            raise self._deadlines.error() from None

    async def _send(self) -> Connection:
        """The connection on which the answer has begun. Sends the request once.

        An idempotent request is sent a second time, on a new connection, when a kept-alive one is lost before the
        answer begins. Any other may have been read, and paid for, by then: UpstreamUnreachable is raised.
        """
        head = self._head()
        try:
            self._connection = kept = self._pool.take()
            if kept is not None:
                try:
                    return await self._exchange(kept, head)
                except ConnectionLost as exc:
                    if exc.begun or self._method not in IDEMPOTENT:
                        raise
                self._pool.give_back(kept)
                self._connection = None
            self._connection = new = await self._connect()
            if self._upstream.life is not None and self._upstream.life.ended:
                raise ConnectionLost(begun=False)
            return await self._exchange(new, head)
        except TRANSPORT_ERRORS as exc:
            raise translate(exc, self._upstream) from None

    async def _exchange(self, connection: Connection, head: bytes) -> Connection:
        """Write the request and wait for the head of its answer."""
        connection.send(head, self._body)
        try:
            while not connection.head_complete:
                self._deadlines.start_wait(connection)
                await connection.wait()
        except DeadlinePassed:
            error = self._deadlines.error()
            error.may_bill = connection.all_sent
            raise error from None
        finally:
            self._deadlines.end_wait()
        return connection

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout_at(self._deadlines.first_byte_by()):
                try:
                    return await self._pool.connect(self._upstream.timeouts.connect)
                except TimeoutError as exc:  # the connect timeout: outside this block it looks like the deadline
                    raise translate(exc, self._upstream) from None
        except TimeoutError:
            raise self._deadlines.error() from None

    def _head(self) -> bytes:
        route = self._pool.route
        try:
            return request_head(
                self._method, route.target(self._url), {**route.headers, **self._headers}, self._body
            )
        except ValueError:
            raise misconfigured(self._upstream, "an address or a header that is not valid") from None


def _address(upstream: Upstream, path: str) -> URL:
    base = upstream.base_url.rstrip("/")
    if upstream.uds is not None and "://" not in base:
        base = "http://localhost" + base
    try:
        url = _url(base + path)
    except ValueError:
        raise misconfigured(upstream, "an address that is not valid") from None
    if url.scheme not in ("http", "https"):
        raise misconfigured(upstream, "an address that is not HTTP")
    if not url.raw_host:
        raise misconfigured(upstream, "an address that is not valid")
    return url


@lru_cache(maxsize=1024)
def _url(text: str) -> URL:
    """Parse an address. Cached: the addresses of all endpoints are few."""
    return URL(text)


def _dumps(payload: Any) -> bytes:
    try:
        # Copied, because orjson's result keeps its whole output buffer alive, which is 4 KiB or more.
        return bytes(memoryview(orjson.dumps(payload)))
    except TypeError as exc:
        raise InvalidRequest(f"The request cannot be written as JSON: {exc}") from None
