"""An answer as its caller reads it: bytes, JSON or events, within the clocks and the bounds of its call."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import orjson

from backends.base import Upstream
from backends.http.clock import Clock, TimeIsUp
from backends.http.connection import Connection
from backends.http.errors import UNREACHED, translate
from backends.settings import BackendSettings
from backends.streams.sse import ServerSentEvent, SSEReader
from catalog.errors import RoundhouseError, UpstreamProtocolError

_GZIP_OR_ZLIB = 47
"""zlib's "window bits" for either, by its header."""
_INFLATED = 256 * 1024
"""Bytes that are decompressed at a time, however well they were compressed."""


class UpstreamResponse:
    """An answer with a 2xx status whose body may still be on its way. Valid within ``HttpClient.open``."""

    __slots__ = ("_clock", "_connection", "_inflate", "_settings", "_size", "_upstream", "headers", "status")

    def __init__(
        self, connection: Connection, upstream: Upstream, clock: Clock, settings: BackendSettings
    ) -> None:
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers
        """By their names in lower case; what came several times is joined by commas."""
        self._connection = connection
        self._size = 0
        self._upstream = upstream
        self._clock = clock
        self._settings = settings
        self._inflate = self._decompressor(self.headers.get("content-encoding"))

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
        if self._connection.at_end:
            return
        with contextlib.suppress(TimeoutError, RoundhouseError):
            async with asyncio.timeout(seconds):
                while await self._next_chunk(None):
                    pass

    async def _next_chunk(self, limit: int | None) -> bytes:
        """What has come since the last time, at least a byte; empty at the end."""
        connection, clock = self._connection, self._clock
        try:
            while True:
                chunk = connection.take()
                if chunk and self._inflate is not None:
                    chunk = self._inflated(self._inflate, chunk, limit)
                if chunk or connection.at_end:
                    break
                clock.wait(connection)
                await connection.wait()
        except TimeIsUp:
            raise clock.expired() from None
        except UNREACHED as exc:
            raise translate(exc, self._upstream) from None
        finally:
            clock.rest()
        self._size += len(chunk)
        if self._size > self._bound(limit):
            raise self._too_large(limit)
        return chunk

    # ---- compression, which nobody asked for

    def _decompressor(self, encoding: str | None) -> zlib._Decompress | None:
        if encoding is None or encoding.strip().lower() in ("", "identity"):
            return None
        if encoding.strip().lower() in ("gzip", "x-gzip", "deflate"):
            return zlib.decompressobj(_GZIP_OR_ZLIB)
        raise self._undecodable()

    def _inflated(self, inflate: zlib._Decompress, data: bytes, limit: int | None) -> bytes:
        pieces: list[bytes] = []
        size = self._size
        try:
            while data:
                piece = inflate.decompress(data, _INFLATED)
                size += len(piece)
                if size > self._bound(limit):
                    raise self._too_large(limit)
                pieces.append(piece)
                data = inflate.unconsumed_tail
        except zlib.error:
            raise self._undecodable() from None
        return b"".join(pieces)

    def _bound(self, limit: int | None) -> int:
        return self._settings.max_response_bytes if limit is None else limit

    def _too_large(self, limit: int | None) -> UpstreamProtocolError:
        return UpstreamProtocolError(
            f"The endpoint '{self._upstream.endpoint}' sent more than {self._bound(limit)} bytes."
        )

    def _undecodable(self) -> UpstreamProtocolError:
        return UpstreamProtocolError(
            f"The endpoint '{self._upstream.endpoint}' sent a body that does not decompress.",
            upstream_status=self.status,
        )
