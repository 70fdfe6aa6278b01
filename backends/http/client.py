"""The one HTTP client: a pool per upstream, four clocks per call, bounded answers, our own errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import orjson
from yarl import URL

from backends.base import Upstream
from backends.http.clock import Clock, TimeIsUp
from backends.http.connection import Connection, ConnectionLost, request_head
from backends.http.errors import UNREACHED, ErrorReader, bad_address, read_error, translate
from backends.http.multipart import FormField, FormFile, multipart
from backends.http.pools import Pool, Pools
from backends.http.response import UpstreamResponse
from backends.settings import BackendSettings
from backends.streams.sse import ServerSentEvent
from catalog.errors import InvalidRequest, StreamBroken, UpstreamProtocolError, UpstreamTimeout

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods whose request may be sent a second time (RFC 9110, section 9.2.2)."""


class HttpClient:
    """Calls upstreams. Close it with ``aclose`` or use it as an async context manager.

    Every method raises only :mod:`catalog.errors`; the key of an upstream is in none of their messages.
    Redirects are never followed, cookies never kept, and no proxy is read from the environment.
    """

    def __init__(
        self, settings: BackendSettings | None = None, *, propagate: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        """``propagate`` gives the headers that tell an upstream of the trace which a call belongs to."""
        self.settings = settings or BackendSettings()
        self._propagate = propagate
        self._pools = Pools(self.settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pools.aclose()

    @property
    def pools(self) -> int:
        """How many upstreams have a pool now."""
        return len(self._pools)

    def forget_idle(self, keep: int = 0) -> None:
        """Close the pools used least recently until ``keep`` are left; one with a call in it stays."""
        self._pools.forget_idle(keep)

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
        """Call ``base_url + path``; enter to get the response once its headers are there and say 2xx.

        The body is ``json``, ``content``, or a multipart form of ``data`` and ``files``. The upstream's key
        goes into ``key_header``, as a bearer token when that is ``authorization``. Any other status is raised
        as ``errors`` reads it. Leaving the block closes the answer, which cancels a call that goes on.
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
        return _Call(self._pools, self.settings, upstream, method, url, content, all_headers, errors)

    async def get_json(self, upstream: Upstream, path: str, **options: Any) -> Any:
        """GET a JSON document."""
        async with self.open(upstream, "GET", path, **options) as response:
            return await response.json()

    async def post_json(self, upstream: Upstream, path: str, body: Any, **options: Any) -> Any:
        """POST a JSON document and read one."""
        async with self.open(upstream, "POST", path, json=body, **options) as response:
            return await response.json()

    async def events(
        self, upstream: Upstream, path: str, body: Any, **options: Any
    ) -> AsyncGenerator[ServerSentEvent]:
        """POST a JSON document and read server-sent events, as :meth:`UpstreamResponse.events`."""
        async with self.open(upstream, "POST", path, json=body, **options) as response:
            async for event in response.events():
                yield event


class _Call:
    """One call: sent on entering, closed on leaving."""

    __slots__ = (
        "_body", "_clock", "_connection", "_errors", "_headers", "_method", "_pool", "_pools", "_settings",
        "_upstream", "_url",
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
    ) -> None:
        self._pools = pools
        self._settings = settings
        self._upstream = upstream
        self._method = method
        self._url = url
        self._body = body
        self._headers = headers
        self._errors = errors
        self._clock: Clock
        self._pool: Pool
        self._connection: Connection | None = None

    async def __aenter__(self) -> UpstreamResponse:
        self._clock = Clock(self._upstream)
        self._pool = self._pools.take(self._upstream, self._url)
        try:
            connection = await self._send()
            self._body = None  # sent: a stream, which may last, would hold a copy of its prompt
            answer = UpstreamResponse(connection, self._upstream, self._clock, self._settings)
            if not 200 <= answer.status < 300:
                body = await self._error_body(answer)
                raise self._errors(answer.status, answer.headers, body, self._upstream)
        except BaseException:
            self._close()
            raise
        return answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._clock.close()
        if self._connection is not None:
            self._pool.give_back(self._connection)
        self._pools.give_back(self._pool)

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
                    return await self._ask(kept, head)
                except ConnectionLost as exc:
                    if exc.begun or self._method not in IDEMPOTENT:
                        raise
                self._pool.give_back(kept)
                self._connection = None
            self._connection = new = await self._connect()
            return await self._ask(new, head)
        except UNREACHED as exc:
            raise translate(exc, self._upstream) from None

    async def _ask(self, connection: Connection, head: bytes) -> Connection:
        """Send the request and wait until its answer has begun."""
        connection.send(head, self._body)
        self._clock.wait(connection)
        try:
            await connection.head()
        except TimeIsUp:
            raise self._clock.expired() from None
        finally:
            self._clock.rest()
        return connection

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout_at(self._clock.begins_by()):
                try:
                    return await self._pool.connect(self._upstream.timeouts.connect)
                except TimeoutError as exc:  # of connecting: the clock's own looks the same outside this block
                    raise translate(exc, self._upstream) from None
        except TimeoutError:
            raise self._clock.expired() from None

    def _head(self) -> bytes:
        route = self._pool.route
        try:
            return request_head(
                self._method, route.target(self._url), {**route.headers, **self._headers}, self._body
            )
        except ValueError:
            raise bad_address(self._upstream, "valid, or has a header that is not") from None

    async def _error_body(self, answer: UpstreamResponse) -> bytes:
        """The beginning of an error's body; one that breaks off or is too long is cut, not an error itself."""
        body = b""
        try:
            async for chunk in answer.iter_bytes():
                body += chunk
                if len(body) >= self._settings.max_error_bytes:
                    break
        except (StreamBroken, UpstreamTimeout, UpstreamProtocolError):
            pass
        return body[: self._settings.max_error_bytes]


def _address(upstream: Upstream, path: str) -> URL:
    base = upstream.base_url.rstrip("/")
    if upstream.uds is not None and "://" not in base:
        base = "http://localhost" + base
    try:
        url = _url(base + path)
    except ValueError:
        raise bad_address(upstream, "valid") from None
    if url.scheme not in ("http", "https"):
        raise bad_address(upstream, "HTTP")
    if not url.raw_host:
        raise bad_address(upstream, "valid")
    return url


@lru_cache(maxsize=1024)
def _url(text: str) -> URL:
    """The address, parsed: it is always one of a few."""
    return URL(text)


def _dumps(payload: Any) -> bytes:
    try:
        # Copied, as orjson's bytes keep all of the buffer that they were written in, which is 4 KiB or more.
        return bytes(memoryview(orjson.dumps(payload)))
    except TypeError as exc:
        raise InvalidRequest(f"The request cannot be written as JSON: {exc}") from None
