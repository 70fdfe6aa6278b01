"""Reads a picture's kind and size in pixels from its first bytes, without decoding it.

Formats: PNG (W3C, section 11.2.2), JPEG (ITU-T T.81, annex B), GIF89a, WebP (RFC 9649), BMP.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from catalog.errors import PayloadTooLarge, UndecodableMedia

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 50_000_000
MAX_SIDE = 20_000
MAX_SEGMENTS = 4096
"""Segments of a JPEG before its size; photographs have some dozens."""
_FILL = re.compile(rb"\xff+")


class Picture(NamedTuple):
    """``kind`` is the subtype of the media type: png, jpeg, gif, webp or bmp. Sizes are in pixels."""

    kind: str
    width: int
    height: int


def checked_picture(data: bytes, param: str = "messages", most: int = MAX_BYTES) -> Picture:
    """The picture in these bytes, of at most ``most`` bytes; ``param`` is the field that errors name.

    Raises UndecodableMedia if there is none, PayloadTooLarge if it has too many bytes or pixels.
    """
    if len(data) > most:
        raise PayloadTooLarge(f"A picture is over the limit of {most // 2**20} MiB.", param=param)
    try:
        picture = _read(data)
    except (struct.error, IndexError):
        picture = None
    if picture is None or picture.width < 1 or picture.height < 1:
        raise UndecodableMedia("The data is not a PNG, JPEG, GIF, WebP or BMP picture.", param=param)
    if max(picture.width, picture.height) > MAX_SIDE or picture.width * picture.height > MAX_PIXELS:
        raise PayloadTooLarge(
            f"A picture has {picture.width} x {picture.height} pixels; the limit is {MAX_PIXELS} in all and "
            f"{MAX_SIDE} a side.",
            param=param,
        )
    return picture


def picture_kind(data: bytes) -> str:
    """The kind of a picture that :func:`checked_picture` has passed."""
    picture = _read(data)
    return "png" if picture is None else picture.kind


def has_transparency(data: bytes) -> bool:
    """Whether a PNG has an alpha channel, or a colour that counts as transparent (W3C PNG, 11.2.1, 11.3.1.1)."""
    if data[25:26] in (b"\x04", b"\x06"):
        return True
    at = 8
    for _ in range(MAX_SEGMENTS):
        if len(data) < at + 8:
            return False
        size, name = struct.unpack_from(">I4s", data, at)
        if name in (b"tRNS", b"IDAT"):
            return bool(name == b"tRNS")
        at += 12 + size
    return False


def _read(data: bytes) -> Picture | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return Picture("png", *struct.unpack_from(">II", data, 16)) if data[12:16] == b"IHDR" else None
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return Picture("gif", *struct.unpack_from("<HH", data, 6))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if data.startswith(b"BM"):
        width, height = struct.unpack_from("<ii", data, 18)
        return Picture("bmp", width, abs(height))
    return None


def _jpeg(data: bytes) -> Picture | None:
    """Finds the frame header (SOF) after the segments before it. Fill bytes may precede each marker (B.1.1.2)."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        fill = _FILL.match(data, position)
        if fill is None:
            return None
        position = fill.end() - 1
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
            return Picture("jpeg", width, height)
        if marker in (0xD9, 0xDA):
            return None
        (length,) = struct.unpack_from(">H", data, position + 2)
        position += 2 + max(2, length)
    return None


def _webp(data: bytes) -> Picture | None:
    form = data[12:16]
    if form == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            return None
        width, height = struct.unpack_from("<HH", data, 26)
        return Picture("webp", width & 0x3FFF, height & 0x3FFF)
    if form == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Picture("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1) if data[20] == 0x2F else None
    if form == b"VP8X":
        width, height = int.from_bytes(data[24:27], "little"), int.from_bytes(data[27:30], "little")
        return Picture("webp", width + 1, height + 1) if len(data) >= 30 else None
    return None
