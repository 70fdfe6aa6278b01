"""Reads texts and data URLs out of OpenAI's messages, for backends that translate them."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import Any

from backends.wire.chat import ContentPart, Message
from catalog.errors import InvalidRequest, UndecodableMedia

_DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)(?P<params>(?:;[\w.+-]+=[^;,]*)*);base64,", re.IGNORECASE)

_TEXT_TYPE = re.compile(
    r"application/(?:json|xml|yaml|x-yaml|toml|javascript|x-javascript|typescript|sql|x-sh|x-python|x-ndjson"
    r"|[\w.-]+\+(?:json|xml|yaml))"
)
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_SLICE = 1 << 20
_LONGEST_HEAD = 1024
"""Characters of a data URL before its data."""


def parts_of(message: Message) -> Iterator[ContentPart]:
    """The parts of a message; a plain text is one part, and empty texts are left out."""
    if isinstance(message.content, str):
        if message.content:
            yield ContentPart(type="text", text=message.content)
        return
    for part in message.content or ():
        if part.type != "text" or part.text:
            yield part


def text_of(message: Message) -> str:
    """The text of a message that may hold only text (system, developer), parts separated by blank lines.

    Raises :class:`InvalidRequest` for a part that is not text.
    """
    texts = []
    for part in parts_of(message):
        if part.type != "text":
            raise InvalidRequest(f"A {message.role} message holds text only, not {part.type!r}.", param="messages")
        texts.append(part.text or "")
    return "\n\n".join(texts)


def is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


def read_data_url(url: str) -> tuple[str, str]:
    """``(media type, base64 text)`` of a data URL; raises :class:`UndecodableMedia` for any other text."""
    media_type, start = data_url_head(url)
    return media_type, checked_base64(url[start:])


def data_url_head(url: str) -> tuple[str, int]:
    """The media type of a data URL, and where its base64 starts, unread. Raises as :func:`read_data_url`."""
    match = _DATA_URL.match(url, 0, _LONGEST_HEAD)
    if match is None:
        raise UndecodableMedia("A data URL must look like 'data:<media type>;base64,<data>'.", param="messages")
    return match["type"].lower(), match.end()


def checked_base64(data: str) -> str:
    """``data``, if it is base64 of at least one byte; raises :class:`UndecodableMedia` otherwise."""
    # Faster than decoding it or a regular expression, as megabytes are checked on the event loop.
    raw = data.encode("ascii", "replace")
    padding = raw.translate(None, _BASE64)
    if raw and len(raw) % 4 == 0 and padding in (b"", b"=", b"==") and raw.endswith(padding):
        return data
    raise UndecodableMedia("The data is not base64.", param="messages")


def decoded(data: str) -> bytes:
    """The bytes of a text that :func:`checked_base64` has passed, decoded in slices: each holds Python's lock."""
    return b"".join(binascii.a2b_base64(data[start : start + _SLICE]) for start in range(0, len(data), _SLICE))


def media_type_of(url: Any) -> str:
    """The media type of a data URL; empty for anything else."""
    match = _DATA_URL.match(url, 0, _LONGEST_HEAD) if isinstance(url, str) else None
    return match["type"].lower() if match else ""


def is_text(media_type: str) -> bool:
    """Whether files of this type hold text."""
    return media_type.startswith("text/") or _TEXT_TYPE.fullmatch(media_type) is not None


def decoded_text(data: str) -> str:
    """The text, UTF-8, of base64 that :func:`checked_base64` has passed. Raises UndecodableMedia."""
    try:
        return decoded(data).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UndecodableMedia("A text file must be UTF-8.", param="messages") from None


def image_url(part: ContentPart) -> str:
    """The URL in an ``image_url`` part; raises :class:`InvalidRequest` without one."""
    url = (part.image_url or {}).get("url")
    if not isinstance(url, str) or not url:
        raise InvalidRequest("An image_url part needs image_url.url.", param="messages")
    return url
