"""Reads a picture's kind and size in pixels from its first bytes, without decoding it.

Formats: PNG (W3C, section 11.2.2), JPEG (ITU-T T.81, annex B), GIF89a, WebP (RFC 9649), BMP, TIFF 6.0 (section 2),
AVIF (ISO/IEC 23008-12, ``ispe``), JPEG 2000 (ISO/IEC 15444-1, annexes A.5.1 and I.5.3.1), ICO, and Netpbm's PBM,
PGM, PPM and PAM.
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
COMMON = frozenset({"png", "jpeg", "gif", "webp", "bmp"})
"""Kinds that every server of models that see decodes, but for llama.cpp and WebP."""
KINDS = COMMON | {"tiff", "avif", "jp2", "ico", "pbm", "pgm", "ppm", "pam"}
_FILL = re.compile(rb"\xff+")


class Picture(NamedTuple):
    """``kind`` is one of :data:`KINDS`, mostly the subtype of the media type. Sizes are in pixels."""

    kind: str
    width: int
    height: int


def checked_picture(data: bytes, param: str = "messages", most: int = MAX_BYTES) -> Picture:
    """The picture in these bytes, of at most ``most`` bytes; ``param`` is the field that errors name.

    Raises UndecodableMedia if there is none, PayloadTooLarge if it has too many bytes or pixels.
    """
    if len(data) > most:
        raise PayloadTooLarge(f"A picture is over the limit of {most // 2**20} MiB.", param=param)
    return bounded(picture_of(data), param)


def picture_of(data: bytes) -> Picture | None:
    """The picture that begins in these bytes, if they hold its size."""
    try:
        picture = read_head(data)
    except (struct.error, IndexError):
        return None
    return picture if picture is not None and picture.width >= 1 and picture.height >= 1 else None


def bounded(picture: Picture | None, param: str) -> Picture:
    """The picture, if there is one within the bounds. Raises as :func:`checked_picture`."""
    if picture is None:
        raise UndecodableMedia(
            "The data is not a picture in PNG, JPEG, GIF, WebP, BMP, TIFF, AVIF, JPEG 2000, ICO or PNM.",
            param=param,
        )
    if max(picture.width, picture.height) > MAX_SIDE or picture.width * picture.height > MAX_PIXELS:
        raise PayloadTooLarge(
            f"A picture has {picture.width} x {picture.height} pixels; the limit is {MAX_PIXELS} in all and "
            f"{MAX_SIDE} a side.",
            param=param,
        )
    return picture


def is_cut_off(kind: str, data: bytes) -> bool:
    """Whether a picture of this kind ends before its pixels do, as far as the bytes tell without decoding.

    A PNG ends with IEND (W3C PNG, 11.2.5) and a WebP tells its length (RFC 9649, 2.4); bytes may follow. A JPEG
    without an end (EOI) is decoded by most, but not one without a scan (SOS).
    """
    match kind:
        case "png":
            return data.rfind(_PNG_END) < 0
        case "jpeg":
            return data.rfind(_JPEG_END) < 0 and data.find(_JPEG_SCAN) < 0
        case "webp":
            return len(data) < int.from_bytes(data[4:8], "little") + 8
    return False


def refuse_cut_off(kind: str, data: bytes, param: str) -> None:
    """Raises UndecodableMedia for a picture that :func:`is_cut_off`."""
    if is_cut_off(kind, data):
        raise UndecodableMedia(f"The picture is cut off: its {kind.upper()} data has no end.", param=param)


_PNG_END = b"IEND\xaeB`\x82"
_JPEG_END, _JPEG_SCAN = b"\xff\xd9", b"\xff\xda"


def picture_kind(data: bytes) -> str:
    """The kind of a picture that :func:`checked_picture` has passed."""
    picture = read_head(data)
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


def read_head(data: bytes) -> Picture | None:
    """The picture whose first bytes these are. Raises struct.error and IndexError where they are too few."""
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
    return _rare(data)


def _rare(data: bytes) -> Picture | None:
    if data.startswith((b"II*\0", b"MM\0*")):
        return _tiff(data)
    if data[4:8] == b"ftyp" and b"avif" in data[8:64]:
        return _boxed("avif", data, b"ispe", ">4xII")
    if data.startswith(b"\0\0\0\x0cjP  "):
        read = _boxed("jp2", data, b"ihdr", ">II")
        return None if read is None else Picture("jp2", read.height, read.width)
    if data.startswith(b"\xffO\xffQ"):
        right, lower, left, upper = struct.unpack_from(">IIII", data, 8)
        return Picture("jp2", right - left, lower - upper)
    if data.startswith(b"\0\0\1\0") and data[4:6] != b"\0\0":
        return Picture("ico", data[6] or 256, data[7] or 256)
    return _netpbm(data)


def _boxed(kind: str, data: bytes, box: bytes, form: str) -> Picture | None:
    """The size in the first box of this name among the boxes at the beginning."""
    at = data.find(box, 0, _BOXES)
    return Picture(kind, *struct.unpack_from(form, data, at + 4)) if at > 0 else None


def _tiff(data: bytes) -> Picture | None:
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    sides: dict[int, int] = {}
    for at in range(start + 2, start + 2 + 12 * min(count, MAX_SEGMENTS), 12):
        tag, form = struct.unpack_from(order + "HH", data, at)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT):
            (sides[tag],) = struct.unpack_from(order + ("H" if form == _TIFF_SHORT else "I"), data, at + 8)
    return Picture("tiff", sides[_TIFF_WIDTH], sides[_TIFF_HEIGHT]) if len(sides) == 2 else None


def _netpbm(data: bytes) -> Picture | None:
    if found := _PNM.match(data, 0, _NETPBM_HEAD):
        return Picture(_PNM_KINDS[found[1]], int(found[2]), int(found[3]))
    if data.startswith(b"P7\n"):
        told = dict(_PAM.findall(data[:_NETPBM_HEAD]))
        return Picture("pam", int(told[b"WIDTH"]), int(told[b"HEIGHT"])) if len(told) == 2 else None
    return None


_BOXES = 8192
"""Bytes at the beginning in which the size of an AVIF or JP2 stands."""
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_SHORT = 0x0100, 0x0101, 3
_NETPBM_HEAD = 1024
_PNM = re.compile(rb"P([1-6])(?:\s{1,9}+(?:#[^\n]{0,200}+\n\s{0,9}+){0,9}+)(\d{1,9})\s{1,9}+(\d{1,9})\s")
_PAM = re.compile(rb"\n(WIDTH|HEIGHT) (\d{1,9})\b")
_PNM_KINDS = {b"1": "pbm", b"4": "pbm", b"2": "pgm", b"5": "pgm", b"3": "ppm", b"6": "ppm"}


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
