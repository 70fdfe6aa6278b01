"""The answer of an upstream, read as bytes, JSON or events within the deadlines and size limits of its call."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import orjson

from backends.base import Upstream
from backends.http.connection import Connection
from backends.http.deadlines import DeadlinePassed, Deadlines
from backends.http.errors import TRANSPORT_ERRORS, translate
from backends.settings import BackendSettings
from backends.streams.json_text import loads
from backends.streams.lines import LineReader
from backends.streams.sse import ServerSentEvent, SSEReader
from catalog.errors import RoundhouseError, StreamBroken, UpstreamProtocolError, UpstreamTimeout

_GZIP_OR_ZLIB = 47
"""zlib's window bits (``wbits``) that detect either format by its header."""
_INFLATED = 256 * 1024
"""Bytes decompressed at a time, so that a small compressed piece cannot fill the memory or hold the event loop."""


class UpstreamResponse:
    """An answer with a 2xx status, valid within the block of ``HttpClient.open``; its body may still be arriving.

    Reading the body raises StreamBroken if it is cut short, an UpstreamTimeout past a deadline, and
    UpstreamProtocolError if it is too long or does not decompress.
    """

    __slots__ = (
        "_compressed", "_connection", "_deadlines", "_inflate", "_mid_member", "_settings", "_size", "_upstream",
        "headers", "status",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, upstream: Upstream, deadlines: Deadlines, settings: BackendSettings
    ) -> None:
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers
        """Values by names in lower case; the values of a repeated header are joined by commas."""
        self._connection = connection
        self._size = 0
        self._upstream = upstream
        self._deadlines = deadlines
        self._settings = settings
        self._inflate = self._decompressor(self.headers.get("content-encoding"))
        self._compressed = b""
        self._mid_member = False

    @property
    def media_type(self) -> str:
        """The content type without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def iter_bytes(self, limit: int | None = None) -> AsyncIterator[bytes]:
        """The body, piece by piece as it arrives. ``limit`` bounds its bytes (default: ``max_response_bytes``)."""
        while chunk := await self._next_chunk(limit):
            self._deadlines.progress()
            yield chunk

    async def iter_audio(self) -> AsyncGenerator[bytes]:
        """The body as :meth:`iter_bytes`. Raises UpstreamProtocolError when it is text by its content type."""
        kind = self.media_type
        if kind.startswith("text/") or kind == "application/json":
            raise UpstreamProtocolError(
                f"The endpoint '{self._upstream.endpoint}' answered with '{kind[:80]}' where audio was asked for."
            )
        async for chunk in self.iter_bytes():
            yield chunk

    async def read(self, limit: int | None = None) -> bytes:
        """The whole body, bounded as in :meth:`iter_bytes`."""
        chunks: list[bytes] = []
        while chunk := await self._next_chunk(limit):
            self._deadlines.progress()
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def error_body(self, limit: int) -> bytes:
        """The first ``limit`` bytes of an error's body, as far as they come whole and within ``first_byte``."""
        body = b""
        with contextlib.suppress(StreamBroken, UpstreamTimeout, UpstreamProtocolError):
            while len(body) < limit and (chunk := await self._next_chunk(None)):
                body += chunk
        return body[:limit]

    async def json(self, *, room: int = 0) -> Any:
        """The whole body, parsed. Its bytes are bounded by ``max_event_bytes`` and ``room`` for what was asked.

        Raises UpstreamProtocolError when it is too long, has too many parts, or is not JSON. An answer of this
        machine's own workers is bounded by ``max_response_bytes`` alone.
        """
        settings = self._settings
        most = min(settings.max_response_bytes, settings.max_event_bytes + room)
        body = await self.read(None if self._upstream.ours else most)
        try:
            return orjson.loads(body) if self._upstream.ours else loads(body)
        except (UpstreamProtocolError, orjson.JSONDecodeError) as wrong:
            reason = wrong.message if isinstance(wrong, UpstreamProtocolError) else "It is not JSON."
            raise UpstreamProtocolError(
                f"The endpoint '{self._upstream.endpoint}' answered with a body that cannot be read. {reason}",
                upstream_status=self.status,
            ) from None

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """The body as server-sent events. A comment is no part of the answer: no deadline waits longer for it, but
        for ``idle`` with this machine's own workers, which send one per step of a picture.

        Raises UpstreamProtocolError when the answer has another content type.
        """
        async for events in self.event_batches():
            for event in events:
                yield event

    async def event_batches(self) -> AsyncGenerator[list[ServerSentEvent]]:
        """The same events in lists: those that arrived together share one."""
        if self.media_type != "text/event-stream":
            raise UpstreamProtocolError(
                f"The endpoint '{self._upstream.endpoint}' answered with '{self.media_type[:80]}' "
                "where an event stream was asked for."
            )
        reader = SSEReader(max_event=self._settings.max_event_bytes)
        while chunk := await self._next_chunk(None):
            if events := reader.feed(chunk):
                self._deadlines.progress()
                yield events
            else:
                self._deadlines.no_progress(working=self._upstream.ours)

    async def lines(self) -> AsyncGenerator[Any]:
        """The body as JSON values, one a line, whatever the content type. Raises UpstreamProtocolError."""
        reader = LineReader(max_line=self._settings.max_event_bytes)
        while chunk := await self._next_chunk(None):
            if values := reader.feed(chunk):
                self._deadlines.progress()
                for value in values:
                    yield value
            else:
                self._deadlines.no_progress(working=self._upstream.ours)
        for value in reader.rest():
            yield value

    def prefilling(self) -> None:
        """Note that what came tells of progress with the prompt, and is no part of the answer."""
        self._deadlines.prefilling()

    async def drain(self, seconds: float) -> None:
        """Read and drop the rest of the body for at most ``seconds``, so that the connection can be reused."""
        if self._connection.at_end:
            return
        with contextlib.suppress(TimeoutError, RoundhouseError):
            async with asyncio.timeout(seconds):
                while await self._next_chunk(None):
                    pass

    async def _next_chunk(self, limit: int | None) -> bytes:
        """The bytes that arrived since the last call; waits for at least one. Empty at the end."""
        connection, deadlines = self._connection, self._deadlines
        try:
            while True:
                if self._inflate is None:
                    chunk = connection.take()
                else:
                    chunk = await self._inflated(connection)
                if chunk or connection.at_end:
                    break
                deadlines.start_wait(connection)
                await connection.wait()
        except DeadlinePassed:
            raise deadlines.error() from None
        except TRANSPORT_ERRORS as exc:
            raise translate(exc, self._upstream) from None
        finally:
            deadlines.end_wait()
        self._size += len(chunk)
        if self._size > self._bound(limit):
            raise self._too_large(limit)
        return chunk

    # ---- compression, though requests say "accept-encoding: identity"

    def _decompressor(self, encoding: str | None) -> zlib._Decompress | None:
        if encoding is None or encoding.strip().lower() in ("", "identity"):
            return None
        if encoding.strip().lower() in ("gzip", "x-gzip", "deflate"):
            return zlib.decompressobj(_GZIP_OR_ZLIB)
        raise self._undecodable()

    async def _inflated(self, connection: Connection) -> bytes:
        """At most ``_INFLATED`` bytes of the body; empty if more has to arrive, and at its end.

        The body may have several members (RFC 1952, section 2.2). Raises UpstreamProtocolError if it does not
        decompress, or ends within a member.
        """
        while data := self._compressed or connection.take():
            assert self._inflate is not None
            if not self._mid_member:
                data = data.lstrip(b"\0")  # padding before a member
            try:
                piece = self._inflate.decompress(data, _INFLATED)
            except zlib.error:
                raise self._undecodable() from None
            self._compressed = self._inflate.unconsumed_tail
            self._mid_member = not self._inflate.eof and (self._mid_member or bool(data))
            if self._inflate.eof:
                self._compressed = self._inflate.unused_data
                self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
            if piece:
                return piece
            await asyncio.sleep(0)
        if self._mid_member and connection.at_end:
            raise self._undecodable()
        return b""

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
