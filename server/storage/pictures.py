"""Pictures that answers name by address: kept for a while, under names that nobody can guess.

A picture belongs to the key that asked for it and takes room of its files. Its address needs no key, because a
page shows it and a mail links to it: whoever has the address may read it until it expires.
"""

from __future__ import annotations

import asyncio
import secrets

from catalog.errors import NotFound
from routing.state.records import Record
from server.callers import Caller
from server.storage.files import PICTURE, Files

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"<svg", "image/svg+xml"),
    (b"<?xml", "image/svg+xml"),
)
UNKNOWN = "application/octet-stream"
_RANDOM = 32
"""Random bytes of a name."""


def media_type_of(data: bytes) -> str:
    """The media type of a picture by its first bytes; :data:`UNKNOWN` for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for signature, kind in _SIGNATURES if data.startswith(signature)), UNKNOWN)


class PictureShelf:
    """Keeps pictures in the folder of files, for ``storage.image_url_seconds``."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def keep(self, data: bytes, caller: Caller) -> str:
        """Keep a picture; returns its name. Raises Unavailable for a disk that fails.

        Its key's room is checked before it is drawn (:meth:`server.storage.files.Files.check_room`), as a picture
        that is paid for should not be lost.
        """
        storage = self._files.storage
        name = f"img_{secrets.token_urlsafe(_RANDOM)}"
        record = storage.new(
            PICTURE,
            name,
            {"bytes": len(data), "media_type": media_type_of(data)},
            caller,
            expires_at=storage.now() + storage.settings.image_url_seconds,
        )
        with self._files.temporary() as file:
            await asyncio.to_thread(file.write, data)
            await self._files.keep(record, file, bounded=False)
        return name

    async def find(self, name: str) -> Record:
        """The record of a picture. Raises NotFound for an unknown or expired one."""
        record = await self._files.storage.records.get(PICTURE, name)
        expired = record is None or (record.expires_at or 0) <= self._files.storage.now()
        if record is None or expired or not self._files.path(record.id).is_file():
            raise NotFound("There is no picture at this address (any more). Addresses of pictures expire.")
        return record
