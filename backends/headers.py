"""Values of response headers made from any text: names that a caller sent, reasons, model names."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

_SAFE = "".join(chr(code) for code in range(0x20, 0x7F))
_MAX_NAME = 80
_MAX_LIST = 2000
"""Characters of one name and of a whole list: common clients refuse a header of more than 8 kB."""


def header_value(text: str) -> str:
    """The text as a header: printable ASCII as it is, all else percent-encoded as UTF-8 (RFC 3986)."""
    if text.isascii() and text.isprintable():
        return text
    return quote(text.encode("utf-8", "replace"), safe=_SAFE)


def header_list(names: Iterable[str]) -> str:
    """The distinct names, separated by commas; a long list ends with the number of those left out."""
    distinct = list(dict.fromkeys(names))
    parts: list[str] = []
    size = 0
    for name in distinct:
        part = header_value(name[:_MAX_NAME]).replace(",", "%2C")
        size += len(part) + 2
        if size > _MAX_LIST:
            parts.append(f"and {len(distinct) - len(parts)} more")
            break
        parts.append(part)
    return ", ".join(parts)
