"""Looks at the pictures of a request by their first and last bytes, whichever model will get them.

Nothing is decoded. Kinds whose size is not read here (HEIC, HEIF, JPEG XL) pass, as some providers take them, and
so do documents, sounds and videos in the place of a picture.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Sequence
from typing import Any

from backends.pictures.media import MAX_PICTURES, MAX_PIXELS_IN_ALL
from backends.wire.media import data_url_head, is_data_url
from backends.wire.pictures import MAX_BYTES, Picture, bounded, is_cut_off, picture_of
from catalog.errors import InvalidRequest, PayloadTooLarge, UndecodableMedia

_AT_ONCE = 256 * 1024
"""Characters of data URLs that are looked at on the event loop."""
_HEADS = (4096, 87_384)
"""Characters of base64 in which the size is looked for, before all of them."""
_TAIL = 4096
_SLICE = 1 << 20
_DEEP = (b"\xff\xd8\xff", b"II*\0", b"MM\0*")
"""First bytes of JPEG and TIFF, whose size may stand anywhere."""
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""Brands of HEIC and HEIF (ISO/IEC 23008-12, annex B)."""
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_OTHERS = ("application/pdf", "video/", "audio/")
"""Media types that Gemini and its like take in the place of a picture."""
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/\r\n\t "


async def look_at(urls: Sequence[Any], param: str) -> None:
    """Check the pictures of a request, given by data URLs and addresses; the latter only count.

    Raises InvalidRequest for what is no URL, UndecodableMedia for data that is certainly no picture, and
    PayloadTooLarge for too many pictures, bytes or pixels. ``param`` is the field that errors name.
    """
    if len(urls) > MAX_PICTURES:
        raise PayloadTooLarge(f"A request may hold at most {MAX_PICTURES} pictures.", param=param)
    if not all(isinstance(url, str) and url for url in urls):
        raise InvalidRequest("An image_url part needs image_url.url.", param=param)
    given = [url for url in urls if is_data_url(url)]
    if sum(map(len, given)) <= _AT_ONCE:
        _look(given, param)
    else:
        await asyncio.to_thread(_look, given, param)


def size_by_head(url: Any) -> tuple[int, int] | None:
    """Width and height of the picture of a data URL, by its first bytes; None where they do not tell."""
    if not isinstance(url, str) or not is_data_url(url):
        return None
    try:
        _, start = data_url_head(url)
        for length in _HEADS:
            if (picture := picture_of(_bytes(url, start, start + length))) is not None:
                return picture.width, picture.height
    except (UndecodableMedia, ValueError):
        pass
    return None


def _look(urls: Sequence[str], param: str) -> None:
    pixels = 0
    for url in urls:
        try:
            picture = _picture(url, param)
        except UndecodableMedia as error:
            error.param = param
            raise
        if picture is not None:
            pixels += picture.width * picture.height
            if pixels > MAX_PIXELS_IN_ALL:
                raise PayloadTooLarge(
                    f"The pictures of a request may have {MAX_PIXELS_IN_ALL} pixels in all.", param=param
                )


def _picture(url: str, param: str) -> Picture | None:
    """The picture of a data URL; None for a kind that is not read here."""
    media_type, start = data_url_head(url)
    if not _is_base64(url, start):
        raise UndecodableMedia("The data is not base64.")
    if media_type.startswith(_OTHERS):
        return None
    if not media_type.startswith("image/") and media_type != "application/octet-stream":
        raise UndecodableMedia(f"An image_url must hold a picture, not {media_type[:40]}.")
    if (len(url) - start) // 4 * 3 > MAX_BYTES + 2:
        raise PayloadTooLarge(f"A picture is over the limit of {MAX_BYTES // 2**20} MiB.", param=param)
    head = b""
    for length in _HEADS:
        head = _bytes(url, start, start + length)
        if (picture := picture_of(head)) is not None:
            break
    else:
        if _is_foreign(head):
            return None
        picture = picture_of(_bytes(url, start, len(url))) if head.startswith(_DEEP) else None
    picture = bounded(picture, param)
    if _is_cut_off(picture.kind, url, start, head):
        raise UndecodableMedia(f"The picture is cut off: its {picture.kind.upper()} data has no end.")
    return picture


def _is_base64(url: str, start: int) -> bool:
    """Whether the text from ``start`` is base64, with white space or without the padding if need be."""
    end = len(url.rstrip("=\r\n\t "))
    if end <= start or url.count("=", end) > 2:
        return False
    for at in range(start, end, _SLICE):  # each slice holds Python's lock
        if url[at : min(at + _SLICE, end)].encode("ascii", "replace").translate(None, _LETTERS):
            return False
    return True


def _bytes(url: str, start: int, end: int) -> bytes:
    """The bytes of the base64 from ``start``, as far as they are whole."""
    pieces, left = [], ""
    for at in range(start, min(end, len(url)), _SLICE):
        text = left + "".join(url[at : min(at + _SLICE, end)].rstrip("=").split())
        whole = len(text) - len(text) % 4
        pieces.append(binascii.a2b_base64(text[:whole]))
        left = text[whole:]
    if len(left) > 1:
        pieces.append(binascii.a2b_base64(left + "=" * (4 - len(left))))
    return b"".join(pieces)


def _is_foreign(head: bytes) -> bool:
    return head.startswith(_JPEG_XL) or (head[4:8] == b"ftyp" and any(brand in head[8:64] for brand in _BRANDS))


def _is_cut_off(kind: str, url: str, start: int, head: bytes) -> bool:
    """Whether the picture has no end: by its last bytes, and by all of them only if those do not tell."""
    if kind not in ("png", "jpeg", "webp"):
        return False
    if kind == "webp":
        return (len(url) - start) * 3 // 4 < int.from_bytes(head[4:8], "little") + 8
    at = max(start, len(url) - _TAIL)
    at -= (at - start) % 4
    return is_cut_off(kind, _bytes(url, at, len(url))) and is_cut_off(kind, _bytes(url, start, len(url)))
