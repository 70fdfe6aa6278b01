"""Reads the orientation of a photograph.

Sources: Exif 2.32 (tag 0x0112), also of a TIFF itself, PNG's eXIf chunk, WebP (RFC 9649), ``irot`` of ISO/IEC
23008-12.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from backends.wire.pictures import MAX_SEGMENTS

UPRIGHT = 1
_ORIENTATION, _SHORT = 0x0112, 3
_HEAD = b"Exif\0\0"


def orientation_of(data: bytes, kind: str) -> int:
    """The orientation, 1 to 8, of a picture of this kind; 1, upright, where none is told or none can be read."""
    if kind == "avif":
        at = data.find(b"irot", 0, _BOXES)
        return _BY_QUARTERS[data[at + 4] & 3] if 0 < at < len(data) - 4 else UPRIGHT
    try:
        for block in _BLOCKS[kind](data) if kind in _BLOCKS else ():
            return _read(block.removeprefix(_HEAD))
    except (struct.error, IndexError):
        pass
    return UPRIGHT


def _read(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return UPRIGHT
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for at in range(start + 2, start + 2 + 12 * min(count, MAX_SEGMENTS), 12):
        tag, kind = struct.unpack_from(order + "HH", tiff, at)
        if (tag, kind) == (_ORIENTATION, _SHORT):
            (value,) = struct.unpack_from(order + "H", tiff, at + 8)
            return int(value) if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


def _of_jpeg(data: bytes) -> Iterator[bytes]:
    at = 2
    for _ in range(MAX_SEGMENTS):
        marker, size = struct.unpack_from(">HH", data, at)
        if marker >> 8 != 0xFF or marker == 0xFFDA:  # the picture's own data begins
            return
        if marker == 0xFFFF:  # a fill byte
            at += 1
            continue
        if marker == 0xFFE1 and data[at + 4 : at + 10] == _HEAD:
            yield data[at + 4 : at + 2 + size]
        at += 2 + size


def _of_png(data: bytes) -> Iterator[bytes]:
    at = 8
    for _ in range(MAX_SEGMENTS):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"eXIf":
            yield data[at + 8 : at + 8 + size]
        if name in (b"IDAT", b"IEND"):
            return
        at += 12 + size


def _of_webp(data: bytes) -> Iterator[bytes]:
    at = 12
    for _ in range(MAX_SEGMENTS):
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"EXIF":
            yield data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _of_tiff(data: bytes) -> Iterator[bytes]:
    yield data


_BLOCKS = {"jpeg": _of_jpeg, "png": _of_png, "webp": _of_webp, "tiff": _of_tiff}
_BOXES = 8192
_BY_QUARTERS = (1, 8, 3, 6)
"""Orientations by quarters of a turn, counter-clockwise."""
