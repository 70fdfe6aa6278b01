"""The one HTTP client: a pool per upstream, four clocks per call, bounded answers, our own errors.

It is httpx's interface over aiohttp's transport (several times the throughput of httpx's own). Nothing
outside this file and ``http_errors.py`` knows either library.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from backends.base import Timeouts, Upstream
from backends.http_errors import ErrorReader, read_error, translated, was_disconnected
from backends.settings import BackendSettings
from backends.wire.sse import ServerSentEvent, SSEReader
from catalog.errors import (
    FirstByteTimeout,
    IdleTimeout,
    InvalidRequest,
    RoundhouseError,
    StreamBroken,
    TotalTimeout,
    UpstreamProtocolError,
    UpstreamTimeout,
)

FormField = tuple[str, str]
FormFile = tuple[str, tuple[str, bytes, str]]
"""A part of a multipart form: the field's name, then the file's name, its bytes and its media type."""

_MAX_IDLE_POOLS = 128
_CLOSE_WAIT = 1.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

# aiohttp's tracing hooks are told of a reused connection within the task that makes the request.
_reused: ContextVar[bool] = ContextVar("reused_connection", default=False)


class _Clock:
    """The deadlines of one call, in the event loop's time. ``first_byte`` runs from the start of the call."""

    __slots__ = ("_first_at", "_loop", "_times", "_total_at", "_upstream", "answering")

    def __init__(self, upstream: Upstream) -> None:
        self._loop = asyncio.get_running_loop()
        self._upstream = upstream
        self._times: Timeouts = upstream.timeouts
        now = self._loop.time()
        self._first_at = now + self._times.first_byte
        self._total_at = now + self._times.total
        self.answering = False

    def next(self) -> float:
        """When the wait that begins now is over."""
        limit = self._loop.time() + self._times.idle if self.answering else self._first_at
        return min(limit, self._total_at)

    def expired(self) -> UpstreamTimeout:
        """The error of the clock that ran out."""
        who = f"The endpoint '{self._upstream.endpoint}'"
        if self._loop.time() >= self._total_at:
            return TotalTimeout(f"{who} took longer than {self._times.total:g} s for the whole answer.")
        if self.answering:
            return IdleTimeout(f"{who} sent nothing for {self._times.idle:g} s within its answer.")
        return FirstByteTimeout(f"{who} did not begin to answer within {self._times.first_byte:g} s.")


class UpstreamResponse:
    """An answer with a 2xx status whose body may still be on its way. Valid within ``HttpClient.open``."""

    def __init__(
        self, response: httpx.Response, upstream: Upstream, clock: _Clock, settings: BackendSettings
    ) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        encoded = self.headers.get("content-encoding", "identity") != "identity"
        self._body = aiter(response.aiter_bytes() if encoded else _stream(response))
        self._size = 0
        self._upstream = upstream
        self._clock = clock
        self._settings = settings

    @property
    def media_type(self) -> str:
        """The content type without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def iter_bytes(self, limit: int | None = None) -> AsyncIterator[bytes]:
        """The body as it comes. ``limit`` bounds its bytes (default: the setting)."""
        while (chunk := await self._next_chunk(limit)) is not None:
            self._clock.answering = True
            yield chunk

    async def read(self, limit: int | None = None) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.iter_bytes(limit)])

    async def json(self) -> Any:
        """The whole body as JSON. Raises UpstreamProtocolError when it is none."""
        body = await self.read()
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            raise UpstreamProtocolError(
                f"The endpoint '{self._upstream.endpoint}' answered with a body that is not JSON.",
                upstream_status=self.status,
            ) from None

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """The body as server-sent events. Comments do not count as the first byte, but reset the idle clock.

        Raises UpstreamProtocolError when the answer is of another content type.
        """
        if self.media_type != "text/event-stream":
            raise UpstreamProtocolError(
                f"The endpoint '{self._upstream.endpoint}' answered with '{self.media_type[:80]}' "
                "where an event stream was asked for."
            )
        reader = SSEReader(max_event=self._settings.max_event_bytes)
        while (chunk := await self._next_chunk(None)) is not None:
            for event in reader.feed(chunk):
                self._clock.answering = True
                yield event

    async def drain(self, seconds: float) -> None:
        """Read what is left for at most ``seconds``, so that the connection can be used again."""
        with contextlib.suppress(TimeoutError, RoundhouseError):
            async with asyncio.timeout(seconds):
                while await self._next_chunk(None) is not None:
                    pass

    async def _next_chunk(self, limit: int | None) -> bytes | None:
        with translated(self._upstream, answering=True):
            try:
                async with asyncio.timeout_at(self._clock.next()):
                    chunk = await anext(self._body, None)
            except TimeoutError:
                raise self._clock.expired() from None
        if chunk is None:
            return None
        self._size += len(chunk)
        bound = self._settings.max_response_bytes if limit is None else limit
        if self._size > bound:
            raise UpstreamProtocolError(f"The endpoint '{self._upstream.endpoint}' sent more than {bound} bytes.")
        return chunk


@dataclass(slots=True)
class _Pool:
    """The connections to one upstream; ``active`` counts calls, so that only an idle pool is closed."""

    transport: AiohttpTransport
    active: int = 0


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
        self._pools: dict[tuple[str, str], _Pool] = {}
        self._tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        pools = list(self._pools.values())
        self._pools.clear()
        for pool in pools:
            await _close(pool)

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
        request = self._request(upstream, method, path, json, content, data, files, headers, query, key_header)
        return self._opened(upstream, request, errors)

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

    # ---- one call

    @asynccontextmanager
    async def _opened(
        self, upstream: Upstream, request: httpx.Request, errors: ErrorReader
    ) -> AsyncIterator[UpstreamResponse]:
        clock = _Clock(upstream)
        pool = self._pool(upstream, request.url)
        pool.active += 1
        try:
            response = await self._send(pool.transport, upstream, request, clock)
            try:
                answer = UpstreamResponse(response, upstream, clock, self.settings)
                if not 200 <= response.status_code < 300:
                    raise errors(response.status_code, response.headers, await self._error_body(answer), upstream)
                yield answer
            finally:
                with contextlib.suppress(httpx.HTTPError, aiohttp.ClientError):
                    await _stream(response).aclose()
        finally:
            pool.active -= 1
            if len(self._pools) > _MAX_IDLE_POOLS:
                await self.forget_idle()

    async def _send(
        self, transport: AiohttpTransport, upstream: Upstream, request: httpx.Request, clock: _Clock
    ) -> httpx.Response:
        """The response's headers. A kept-alive connection that turns out to be closed is replaced once."""
        with translated(upstream, answering=False):
            for attempt in (1, 2):
                token = _reused.set(False)
                try:
                    async with asyncio.timeout_at(clock.next()):
                        return await transport.handle_async_request(request)
                except TimeoutError:
                    raise clock.expired() from None
                except httpx.HTTPError as exc:
                    if attempt == 2 or not (_reused.get() and was_disconnected(exc)):
                        raise
                finally:
                    _reused.reset(token)
        raise AssertionError("unreachable")

    async def _error_body(self, answer: UpstreamResponse) -> bytes:
        """The beginning of an error's body; one that breaks off or is too long is cut, not an error itself."""
        body = b""
        try:
            async for chunk in answer.iter_bytes():
                body += chunk
                if len(body) >= self.settings.max_error_bytes:
                    break
        except (StreamBroken, UpstreamTimeout, UpstreamProtocolError):
            pass
        return body[: self.settings.max_error_bytes]

    def _request(
        self,
        upstream: Upstream,
        method: str,
        path: str,
        json: Any,
        content: bytes | None,
        data: Sequence[FormField],
        files: Sequence[FormFile],
        headers: Mapping[str, str] | None,
        query: Mapping[str, str] | None,
        key_header: str,
    ) -> httpx.Request:
        all_headers = {
            "accept-encoding": "identity",
            "user-agent": "roundhouse",
            **self._propagate(),
            **upstream.headers,
            **(headers or {}),
        }
        if upstream.api_key:
            bearer = key_header.lower() == "authorization"
            all_headers[key_header] = f"Bearer {upstream.api_key}" if bearer else upstream.api_key
        if json is not None:
            content = _dumps(json)
            all_headers["content-type"] = "application/json"
        base = upstream.base_url.rstrip("/")
        if upstream.uds is not None and "://" not in base:
            base = "http://localhost" + base
        connect = upstream.timeouts.connect
        # The transport takes httpx's "pool" for aiohttp's bound on all of connecting, the name's lookup included.
        times = {"timeout": {"connect": connect, "pool": connect}}
        params = {**upstream.query, **(query or {})} or None
        with translated(upstream, answering=False):
            if not files:
                return httpx.Request(
                    method,
                    _url(base + path),
                    content=content,
                    headers=all_headers,
                    params=params,
                    extensions=times,
                )
            fields: list[tuple[str, Any]] = [(name, (None, value.encode())) for name, value in data]
            request = httpx.Request(
                method,
                _url(base + path),
                files=[*fields, *files],
                headers=all_headers,
                params=params,
                extensions=times,
            )
            request.read()
            return request

    # ---- pools

    def _pool(self, upstream: Upstream, url: httpx.URL) -> _Pool:
        """The pool of this upstream, made on first use; the ones used last stay."""
        key = ("unix", upstream.uds) if upstream.uds else (url.scheme, url.netloc.decode())
        pool = self._pools.pop(key, None)
        if pool is None:
            # Given a context, the transport does not load certificates of its own; the session has ours.
            pool = _Pool(
                AiohttpTransport(
                    verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), client=self._session(upstream, url)
                )
            )
        self._pools[key] = pool
        return pool

    @property
    def pools(self) -> int:
        """How many upstreams have a pool now."""
        return len(self._pools)

    async def forget_idle(self, keep: int = _MAX_IDLE_POOLS) -> None:
        """Close the pools used least recently until ``keep`` are left; one with a call in it stays."""
        for key, pool in list(self._pools.items()):
            if len(self._pools) <= keep:
                return
            if pool.active == 0:
                del self._pools[key]
                await _close(pool)

    def _session(self, upstream: Upstream, url: httpx.URL) -> Callable[[], aiohttp.ClientSession]:
        settings = self.settings

        def make() -> aiohttp.ClientSession:
            connector: aiohttp.BaseConnector
            if upstream.uds is not None:
                # llama-server closes kept-alive connections as it likes, and a new one costs about nothing.
                connector = aiohttp.UnixConnector(path=upstream.uds, force_close=True, limit=0)
            else:
                connector = aiohttp.TCPConnector(
                    limit=settings.max_connections,
                    keepalive_timeout=settings.keepalive,
                    ssl=self._tls_context() if url.scheme == "https" else True,
                )
            here = upstream.uds is not None or url.host in _LOOPBACK
            proxy = settings.proxy.get_secret_value() if settings.proxy and not here else None
            tracing = aiohttp.TraceConfig()
            tracing.on_connection_reuseconn.append(_note_reuse)
            return aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                proxy=proxy,
                trace_configs=[] if upstream.uds is not None else [tracing],
            )

        return make

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = httpx.create_ssl_context(verify=True)
            if self.settings.ca_file is not None:
                self._tls = ssl.create_default_context(cafile=str(self.settings.ca_file))
        return self._tls


async def _close(pool: _Pool) -> None:
    """Close a pool's connections; one whose peer no longer reads what was sent to it is not waited for."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_WAIT):
            await pool.transport.aclose()


@lru_cache(maxsize=1024)
def _url(text: str) -> httpx.URL:
    """The address, parsed: as dear as the rest of a request together, and always one of a few."""
    return httpx.URL(text)


def _stream(response: httpx.Response) -> httpx.AsyncByteStream:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return response.stream


async def _note_reuse(_session: aiohttp.ClientSession, _context: Any, _params: Any) -> None:
    _reused.set(True)


def _dumps(payload: Any) -> bytes:
    try:
        return orjson.dumps(payload)
    except TypeError as exc:
        raise InvalidRequest(f"The request cannot be written as JSON: {exc}") from None
