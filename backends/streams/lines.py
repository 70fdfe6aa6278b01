"""Streams of JSON objects, one a line (https://github.com/ndjson/ndjson-spec)."""

from __future__ import annotations

from typing import Any

from backends.streams.json_text import loads
from catalog.errors import UpstreamProtocolError


class LineReader:
    """Takes chunks of bytes and gives the values of the lines that they complete; blank lines are skipped.

    ``max_line`` bounds the bytes of one line; beyond it UpstreamProtocolError is raised, as for a line that is not
    JSON.
    """

    __slots__ = ("_held", "_max_line")

    def __init__(self, *, max_line: int = 16 * 1024 * 1024) -> None:
        self._held = bytearray()
        self._max_line = max_line

    def feed(self, chunk: bytes) -> list[Any]:
        """The values completed by ``chunk``, in order."""
        if b"\n" not in chunk:
            self._hold(chunk)
            return []
        head, _, rest = chunk.rpartition(b"\n")
        lines = (bytes(self._held) + head).split(b"\n")
        self._held.clear()
        self._hold(rest)
        if any(len(line) > self._max_line for line in lines):
            raise self._too_long()
        return [loads(line) for line in lines if line.strip()]

    def rest(self) -> list[Any]:
        """The value of the last line, which may lack its end. Raises UpstreamProtocolError if it is cut short."""
        line = bytes(self._held)
        self._held.clear()
        return [loads(line)] if line.strip() else []

    def _hold(self, part: bytes) -> None:
        self._held += part
        if len(self._held) > self._max_line:
            raise self._too_long()

    def _too_long(self) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"A line of the upstream's stream is longer than {self._max_line} bytes.")
