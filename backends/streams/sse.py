"""Server-sent events: an incremental reader of bytes.

The reader follows the WHATWG standard (https://html.spec.whatwg.org/multipage/server-sent-events.html):
lines end with CR, LF or CRLF, a blank line dispatches, comments are skipped, a leading byte order mark is
dropped, and an event that the stream's end cuts short is discarded. ``id`` and ``retry`` are skipped, since the
stream of an answer is never resumed. The events do not depend on where the bytes are cut. The reader works on
whole blocks, not on characters: one ``split`` per chunk of bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from backends.streams.json_text import loads
from catalog.errors import UpstreamProtocolError

_BOM = b"\xef\xbb\xbf"
_LF = 0x0A


class ServerSentEvent(NamedTuple):
    """One event. ``data`` is UTF-8 as received, lines joined by LF; ``event`` is empty for the default type."""

    data: bytes
    event: str = ""

    @property
    def done(self) -> bool:
        """Whether this is OpenAI's ``[DONE]``."""
        return self.data.strip() == b"[DONE]"

    def json(self) -> Any:
        """The data as JSON. Raises UpstreamProtocolError if it is not, or is excessive."""
        return loads(self.data)


class SSEReader:
    """Takes chunks of bytes and gives the events that they complete.

    ``max_event`` bounds the bytes of one event, complete or not; beyond it ``feed`` raises
    UpstreamProtocolError.
    """

    __slots__ = ("_at_start", "_held", "_max_event", "_skip_lf")

    def __init__(self, *, max_event: int = 16 * 1024 * 1024) -> None:
        self._held = bytearray()
        self._at_start = True
        self._skip_lf = False
        self._max_event = max_event

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events completed by ``chunk``, in order."""
        if not chunk:
            return []
        if self._skip_lf or b"\r" in chunk:
            chunk = self._normalised(chunk)
        if self._at_start:
            chunk = self._without_bom(chunk)
        if not chunk:
            return []
        if b"\n\n" not in chunk and not (chunk[0] == _LF and self._held.endswith(b"\n")):
            self._keep(chunk)
            return []
        chunk = self._with_held(chunk)
        *blocks, rest = chunk.split(b"\n\n")
        if rest:
            self._keep(rest)
        events: list[ServerSentEvent] = []
        for block in blocks:
            if len(block) > self._max_event:
                raise self._too_large()
            if block[:6] == b"data: " and b"\n" not in block:  # nearly all are of this form
                events.append(ServerSentEvent(block[6:]))
            elif (event := _parsed(block)) is not None:
                events.append(event)
        return events

    def _normalised(self, chunk: bytes) -> bytes:
        """``chunk`` with every line end as LF; a CR at its end may be half of a CRLF."""
        if self._skip_lf and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            if not chunk:
                self._skip_lf = False
                return chunk
        self._skip_lf = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _without_bom(self, chunk: bytes) -> bytes:
        """``chunk`` without the byte order mark; empty while the mark may be cut in two."""
        start = self._with_held(chunk)
        if len(start) < len(_BOM) and _BOM.startswith(start):
            self._keep(start)
            return b""
        self._at_start = False
        return start.removeprefix(_BOM)

    def _keep(self, part: bytes) -> None:
        """Hold bytes of an event that is not complete."""
        self._held += part
        if len(self._held) > self._max_event:
            raise self._too_large()

    def _with_held(self, chunk: bytes) -> bytes:
        if not self._held:
            return chunk
        joined = bytes(self._held) + chunk
        self._held.clear()
        return joined

    def _too_large(self) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"An event of the upstream's stream is larger than {self._max_event} bytes.")


def _parsed(block: bytes) -> ServerSentEvent | None:
    """The event of one block of lines, or None when it has no data."""
    data: list[bytes] = []
    kind = b""
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value
    if not data:
        return None
    return ServerSentEvent(b"\n".join(data), kind.decode("utf-8", "replace"))
