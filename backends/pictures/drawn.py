"""Checks pictures that a server drew: that they are pictures, of which format and size, and how many came."""

from __future__ import annotations

import asyncio
import binascii
import re
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing

from backends.base import Upstream
from backends.notices import DROPPED, bill, note, tell
from backends.wire.images import ImageRequest
from backends.wire.media import checked_base64
from backends.wire.pictures import Picture, read_head
from catalog.errors import RoundhouseError, UndecodableMedia, UpstreamProtocolError
from catalog.types import Json

_HEAD = 4 << 16
"""Characters of base64 in which the format and the size of a picture stand."""
_ON_LOOP = 1 << 20
"""Characters of base64 that are checked without a thread."""
_SVG = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:\?xml|svg|!--|!DOCTYPE svg)", re.IGNORECASE)
_STATES = (".completed", ".partial_image")


async def checked_drawings(
    events: AsyncGenerator[Json], upstream: Upstream, request: ImageRequest
) -> AsyncGenerator[Json]:
    """These events of OpenAI's kinds, whose ``output_format`` is that of the bytes, as is a missing ``size``.

    Data that is no picture is left out, as are pictures beyond those that were asked for; their usage is billed.
    Where some pictures came of those that were asked for, a notice says so in place of an error: they are paid
    for. Raises UpstreamProtocolError if none came, and what ``events`` raises for a stream, or before a picture
    came.
    """
    came, wrong, beyond, why, asked = 0, 0, 0, "", request.n or 1
    async with aclosing(events):
        try:
            async for event in events:
                done = str(event.get("type")).endswith(".completed")
                try:
                    await _complete(event, request)
                except UndecodableMedia:
                    wrong += done
                    _bill(event)
                    continue
                if done and came == asked:
                    beyond += 1
                    _bill(event)
                    continue
                came += done
                yield event
        except RoundhouseError as error:
            if request.stream or not came:
                raise
            why = f": {error.message}"
    if wrong and not came:
        raise UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' sent a picture that is none.")
    if came < asked:
        tell(f"'{upstream.model}' drew {came} of the {asked} pictures that were asked for{why or '.'}")
    if beyond:
        tell(f"'{upstream.model}' drew {asked + beyond} pictures; those beyond {asked} are left out.")


def _bill(event: Json) -> None:
    """Count the usage of an event that is left out: it is that of all pictures so far."""
    if isinstance(event.get("usage"), dict):
        bill(event["usage"])


async def _complete(event: Json, request: ImageRequest) -> None:
    """Add what the bytes of an event's picture tell. Raises UndecodableMedia if they are no picture."""
    data = event.get("b64_json")
    if data is None or not str(event.get("type")).endswith(_STATES):
        return
    if len(data) <= _ON_LOOP:
        checked_base64(data)
    else:
        await asyncio.to_thread(checked_base64, data)
    drawn = _read(data)
    if request.output_format not in (None, drawn.kind):
        note({DROPPED: "output_format"})
        tell(f"The picture is a {drawn.kind}, and no {request.output_format} as it was asked for.")
    event["output_format"] = drawn.kind
    if drawn.width and not event.get("size"):
        event["size"] = f"{drawn.width}x{drawn.height}"


def _read(data: str) -> Picture:
    head = binascii.a2b_base64(data[:_HEAD])
    if _SVG.match(head):
        return Picture("svg", 0, 0)
    try:
        found = read_head(head)
    except (struct.error, IndexError):
        found = None
    if found is None and len(data) > _HEAD and head.startswith(b"\xff\xd8\xff"):
        return Picture("jpeg", 0, 0)  # a long profile may come before the size
    if found is None:
        raise UndecodableMedia("The data is not a picture.")
    return found
