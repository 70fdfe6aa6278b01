"""Sizes of pictures as people see them: upright."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Mapping
from contextvars import ContextVar
from typing import NamedTuple

from backends.pictures.exif import orientation_of
from backends.wire.media import is_data_url, read_data_url
from backends.wire.pictures import Picture, checked_picture
from catalog.errors import RoundhouseError

_SIDEWAYS = 5
"""The first Exif orientation whose rows are the columns of the upright picture."""


class PixelSize(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


fetched: ContextVar[dict[str, PixelSize] | None] = ContextVar("sizes_of_fetched_pictures", default=None)
"""Takes the sizes of pictures that this server fetches for a call, by address."""


def note_fetched(url: str, size: PixelSize) -> None:
    """Remember the size of a picture that was fetched, if the present call wants to know."""
    sizes = fetched.get()
    if sizes is not None:
        sizes[url] = size


def upright_size(data: bytes, picture: Picture) -> PixelSize:
    """The size of a picture as people see it."""
    turned = orientation_of(data, picture.kind) >= _SIDEWAYS
    return PixelSize(picture.height, picture.width) if turned else PixelSize(picture.width, picture.height)


async def size_of(url: str, known: Mapping[str, PixelSize]) -> PixelSize | None:
    """The size of the picture of a data URL, or of an address among the ``known``.

    None for one that only the model's server has seen, and for no picture.
    """
    return await asyncio.to_thread(_measured, url) if is_data_url(url) else known.get(url)


def _measured(url: str) -> PixelSize | None:
    try:
        data = binascii.a2b_base64(read_data_url(url)[1])
        return upright_size(data, checked_picture(data))
    except (RoundhouseError, ValueError):
        return None
