"""Parses the JSON of upstreams, whose objects may take far more memory than their text."""

from __future__ import annotations

from typing import Any

import orjson

from catalog.errors import UpstreamProtocolError

SMALL = 1024 * 1024
"""Bytes that are parsed without a look at their structure."""
MOST_PARTS = 4_000_000
"""Brackets, braces and quotes of one text: about 500 MiB of objects at worst, twenty hours of words with times."""


def loads(text: bytes) -> Any:
    """The value of a text. Raises UpstreamProtocolError if it is not JSON or has more than MOST_PARTS parts."""
    if len(text) > SMALL and text.count(b"[") + text.count(b"{") + text.count(b'"') > MOST_PARTS:
        raise UpstreamProtocolError("The upstream sent JSON with too many parts.")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise UpstreamProtocolError("The upstream sent something that is not JSON.") from None
