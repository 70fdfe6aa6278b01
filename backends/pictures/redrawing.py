"""Draws pictures anew, where a model needs it, in a process apart (:mod:`backends.pictures.program`)."""

from __future__ import annotations

from backends.notices import DROPPED, note
from backends.pictures.apart import Decoding, TookTooLong
from backends.pictures.exif import UPRIGHT, orientation_of
from backends.wire.pictures import COMMON, Picture, picture_of
from catalog.errors import UndecodableMedia
from catalog.installing import install_command

LIMIT = 30.0
"""Seconds for one picture, with the start of its process."""
SMALL = 512
"""The longest side in pixels of a picture with ``detail`` "low", as at OpenAI."""
STB = frozenset({"png", "jpeg", "gif", "bmp"})
"""The kinds that llama.cpp's decoder (stb_image) reads."""
_READERS = {"jpeg": "mjpeg", "jp2": "jpeg2000", "avif": "mov"}
"""FFmpeg's names, of decoders or demuxers, where they are not those of the kinds."""


class Redrawer:
    """Draws what a model would see sideways, not at all, or larger than asked; other pictures stay as they are."""

    def __init__(self, limit: float = LIMIT) -> None:
        self._limit = limit
        self._decoding = Decoding()

    async def redraw(
        self, data: bytes, picture: Picture, *, reads: frozenset[str] | None, low: bool
    ) -> bytes | None:
        """The picture anew, None if it may stay as it is.

        ``reads`` are the kinds that the model's server decodes, None for all common ones; ``low`` is the
        ``detail``. Without PyAV the wishes are reported as dropped. Raises UndecodableMedia.
        """
        turn = orientation_of(data, picture.kind)
        unread = picture.kind not in (COMMON if reads is None else reads)
        small = low and max(picture.width, picture.height) > SMALL
        if turn == UPRIGHT and not unread and not small:
            return None
        if not self._decoding.is_able():
            if unread:
                raise UndecodableMedia(
                    f"This server reads no {picture.kind} pictures; send PNG or JPEG, or have the operator run: "
                    f"{install_command('speech')}",
                    param="messages",
                )
            if turn != UPRIGHT:
                note({DROPPED: "messages.image_url.orientation"})
            if small:
                note({DROPPED: "messages.image_url.detail"})
            return None
        return await self._drawn(data, picture.kind, turn, SMALL if small else 0)

    async def upright(self, data: bytes) -> bytes | None:
        """A photograph turned as its Exif data says; None for one that is upright, and without PyAV.

        Raises UndecodableMedia.
        """
        picture = picture_of(data)
        turn = UPRIGHT if picture is None else orientation_of(data, picture.kind)
        if picture is None or turn == UPRIGHT or not self._decoding.is_able():
            return None
        return await self._drawn(data, picture.kind, turn, 0)

    async def _drawn(self, data: bytes, kind: str, turn: int, longest: int) -> bytes:
        arguments = ("picture", _READERS.get(kind, kind), str(turn), str(longest))
        try:
            made = await self._decoding.run(*arguments, data=data, limit=self._limit)
        except TookTooLong:
            raise UndecodableMedia("The picture takes too long to decode.", param="messages") from None
        if made is None:
            raise UndecodableMedia("The picture cannot be decoded.", param="messages")
        return made
