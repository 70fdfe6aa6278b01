"""The one HTTP client: a pool per upstream, four clocks per call, bounded answers, our own errors.

It is aiohttp's, without a layer between: this is the hottest path of the house. Nothing outside this file,
``http_pools.py`` and ``http_errors.py`` knows the library.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
from yarl import URL

from backends.base import Upstream
from backends.http_clock import Clock, TimeIsUp
from backends.http_errors import LOST, ErrorReader, bad_address, read_error, translate, was_disconnected
from backends.http_pools import Pool, Pools, new_connection_made
from backends.multipart import FormField, FormFile, multipart
from backends.settings import BackendSettings
from backends.wire.sse import ServerSentEvent, SSEReader
from catalog.errors import InvalidRequest, RoundhouseError, StreamBroken, UpstreamProtocolError, UpstreamTimeout


class UpstreamResponse:
    """An answer with a 2xx status whose body may still be on its way. Valid within ``HttpClient.open``."""

    __slots__ = ("_clock", "_content", "_settings", "_size", "_upstream", "headers", "status")

    def __init__(
        self, response: aiohttp.ClientResponse, upstream: Upstream, clock: Clock, settings: BackendSettings
    ) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._content = response.content
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
        while chunk := await self._next_chunk(limit):
            self._clock.answering = True
            yield chunk

    async def read(self, limit: int | None = None) -> bytes:
        """The whole body."""
        chunks: list[bytes] = []
        while chunk := await self._next_chunk(limit):
            self._clock.answering = True
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

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
        async for events in self.event_batches():
            for event in events:
                yield event

    async def event_batches(self) -> AsyncGenerator[list[ServerSentEvent]]:
        """The same events; those that came together come in one list."""
        if self.media_type != "text/event-stream":
            raise UpstreamProtocolError(
                f"The endpoint '{self._upstream.endpoint}' answered with '{self.media_type[:80]}' "
                "where an event stream was asked for."
            )
        reader = SSEReader(max_event=self._settings.max_event_bytes)
        while chunk := await self._next_chunk(None):
            if events := reader.feed(chunk):
                self._clock.answering = True
                yield events

    async def drain(self, seconds: float) -> None:
        """Read what is left for at most ``seconds``, so that the connection can be used again."""
        if self._content.at_eof():
            return
        with contextlib.suppress(TimeoutError, RoundhouseError):
            async with asyncio.timeout(seconds):
                while await self._next_chunk(None):
                    pass

    async def _next_chunk(self, limit: int | None) -> bytes:
        """What has come since the last time, at least a byte; empty at the end."""
        content = self._content
        try:
            chunk = content.read_nowait()
            if not chunk and not content.at_eof():
                self._clock.wait(content)
                chunk = await content.readany()
        except TimeIsUp:
            raise self._clock.expired() from None
        except LOST as exc:
            raise translate(exc, self._upstream, answering=True) from None
        finally:
            self._clock.rest()
        self._size += len(chunk)
        bound = self._settings.max_response_bytes if limit is None else limit
        if self._size > bound:
            raise UpstreamProtocolError(f"The endpoint '{self._upstream.endpoint}' sent more than {bound} bytes.")
        return chunk


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

    async def forget_idle(self, keep: int = 0) -> None:
        """Close the pools used least recently until ``keep`` are left; one with a call in it stays."""
        await self._pools.forget_idle(keep)

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
            **upstream.headers,
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
        "_body", "_clock", "_errors", "_headers", "_method", "_pool", "_pools", "_response", "_settings",
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
        headers: Mapping[str, str],
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
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> UpstreamResponse:
        self._clock = Clock(self._upstream)
        self._pool = self._pools.take(self._upstream, self._url)
        try:
            self._response = response = await self._send()
            self._body = None  # sent: a stream, which may last, would hold a copy of its prompt
            answer = UpstreamResponse(response, self._upstream, self._clock, self._settings)
            if not 200 <= response.status < 300:
                body = await self._error_body(answer)
                raise self._errors(response.status, response.headers, body, self._upstream)
        except BaseException:
            await self._close()
            raise
        return answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        self._clock.close()
        if self._response is not None:
            # A body that was read to its end has given its connection back already.
            self._response.close()
        await self._pools.give_back(self._pool)

    async def _send(self) -> aiohttp.ClientResponse:
        """The response's headers. A kept-alive connection that turns out to be closed is replaced once."""
        for attempt in (1, 2):
            new_connection_made.set(False)
            try:
                async with asyncio.timeout_at(self._clock.headers_at()):
                    return await self._pool.session.request(
                        self._method,
                        self._url,
                        data=self._body,
                        headers=self._headers,
                        allow_redirects=False,
                        timeout=_connect_times(self._upstream.timeouts.connect),
                    )
            except aiohttp.ConnectionTimeoutError as exc:  # it is a TimeoutError too
                raise translate(exc, self._upstream, answering=False) from None
            except TimeoutError:
                raise self._clock.expired() from None
            except LOST as exc:
                if attempt == 2 or new_connection_made.get() or not was_disconnected(exc):
                    raise translate(exc, self._upstream, answering=False) from None
        raise AssertionError("unreachable")

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
        return _url(base + path)
    except ValueError:
        raise bad_address(upstream) from None


@lru_cache(maxsize=1024)
def _url(text: str) -> URL:
    """The address, parsed: it is always one of a few."""
    return URL(text)


@lru_cache(maxsize=64)
def _connect_times(seconds: float) -> aiohttp.ClientTimeout:
    """Bounds all of connecting, the name's lookup included; the other clocks are our own."""
    return aiohttp.ClientTimeout(total=None, sock_connect=seconds)


def _dumps(payload: Any) -> bytes:
    try:
        # Copied, as orjson's bytes keep all of the buffer that they were written in, which is 4 KiB or more.
        return bytes(memoryview(orjson.dumps(payload)))
    except TypeError as exc:
        raise InvalidRequest(f"The request cannot be written as JSON: {exc}") from None
