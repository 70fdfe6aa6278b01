"""Multipart forms with files, encoded as browsers do.

Source: the HTML standard, "Multipart form data" (names are UTF-8; quotes and line ends in them are escaped).
"""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex

FormField = tuple[str, str]
"""A text part of a multipart form: the field's name and its value."""
FormFile = tuple[str, tuple[str, bytes, str]]
"""A file part of a multipart form: the field's name, then the file's name, its bytes and its media type."""


def multipart(fields: Sequence[FormField], files: Sequence[FormFile]) -> tuple[bytes, str]:
    """Encode a form, fields first. Returns the body and its content type."""
    boundary = token_hex(16).encode()
    parts: list[bytes] = []
    for name, value in fields:
        parts += (b"--", boundary, b'\r\nContent-Disposition: form-data; name="', _quoted(name), b'"\r\n\r\n')
        parts += (value.encode(), b"\r\n")
    for name, (filename, data, media_type) in files:
        parts += (b"--", boundary, b'\r\nContent-Disposition: form-data; name="', _quoted(name))
        parts += (b'"; filename="', _quoted(filename), b'"\r\nContent-Type: ', media_type.encode("latin-1"))
        parts += (b"\r\n\r\n", data, b"\r\n")
    parts += (b"--", boundary, b"--\r\n")
    return b"".join(parts), f"multipart/form-data; boundary={boundary.decode()}"


def _quoted(name: str) -> bytes:
    return name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22").encode()
