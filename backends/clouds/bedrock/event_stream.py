"""Reads the frames of AWS's event streams: lengths, headers, a payload, and a checksum of each part.

Source: AWS's page "Event stream encoding" of Amazon Transcribe, and botocore's reader.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from zlib import crc32

from catalog.errors import StreamBroken, UpstreamProtocolError

MEDIA_TYPE = "application/vnd.amazon.eventstream"

_PRELUDE = struct.Struct(">III")
_CHECKSUM = struct.Struct(">I")
_AROUND = _PRELUDE.size + _CHECKSUM.size
"""Bytes of a frame without headers or payload."""
_TEXT = 7
_SIZES: Mapping[int, int] = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type; types 6 and 7 (bytes, text) say their length in two bytes."""


class Frame(NamedTuple):
    """One frame; ``headers`` are those that hold text."""

    headers: Mapping[str, str]
    payload: bytes


class FrameReader:
    """Takes chunks of bytes and gives the frames that they complete. ``max_frame`` bounds the bytes of a frame."""

    __slots__ = ("_endpoint", "_held", "_max_frame")

    def __init__(self, endpoint: str, *, max_frame: int) -> None:
        self._endpoint = endpoint
        self._held = bytearray()
        self._max_frame = max_frame

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The frames completed by ``chunk``. Raises UpstreamProtocolError for one that is damaged or too large."""
        held = self._held
        held += chunk
        while len(held) >= _PRELUDE.size:
            total, headers, checksum = _PRELUDE.unpack_from(held)
            if crc32(held[: _PRELUDE.size - _CHECKSUM.size]) != checksum:
                raise self._damaged("a wrong checksum")
            if total > self._max_frame:
                raise self._damaged(f"more than {self._max_frame} bytes")
            if headers + _AROUND > total:
                raise self._damaged("wrong lengths")
            if len(held) < total:
                return
            frame = bytes(held[:total])
            del held[:total]
            if crc32(frame[: -_CHECKSUM.size]) != _CHECKSUM.unpack_from(frame, total - _CHECKSUM.size)[0]:
                raise self._damaged("a wrong checksum")
            end = _PRELUDE.size + headers
            yield Frame(self._headers(frame[_PRELUDE.size : end]), frame[end : -_CHECKSUM.size])

    def close(self) -> None:
        """Raises StreamBroken if the stream ended within a frame."""
        if self._held:
            raise StreamBroken(f"The endpoint '{self._endpoint}' ended its answer within a frame.")

    def _headers(self, block: bytes) -> dict[str, str]:
        found: dict[str, str] = {}
        at = 0
        try:
            while at < len(block):
                name_end = at + 1 + block[at]
                name, kind = block[at + 1 : name_end].decode(), block[name_end]
                at = name_end + 1
                if kind in _SIZES:
                    at += _SIZES[kind]
                    continue
                (size,) = struct.unpack_from(">H", block, at)
                at += 2 + size
                if kind == _TEXT:
                    found[name] = block[at - size : at].decode()
        except (IndexError, struct.error, UnicodeDecodeError):
            raise self._damaged("headers that cannot be read") from None
        if at != len(block):
            raise self._damaged("headers that cannot be read")
        return found

    def _damaged(self, fault: str) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"The endpoint '{self._endpoint}' sent a frame with {fault}.")
