"""Draws pictures anew, where a model needs it, in a process apart (:mod:`backends.pictures.program`)."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from importlib.util import find_spec
from pathlib import Path

from backends.notices import DROPPED, note
from backends.pictures import program
from backends.pictures.exif import UPRIGHT, orientation_of
from backends.wire.pictures import Picture
from catalog.errors import UndecodableMedia
from catalog.installing import install_command

LIMIT = 30.0
"""Seconds for one picture, with the start of its process."""
SMALL = 512
"""The longest side in pixels of a picture with ``detail`` "low", as at OpenAI."""
AT_ONCE = 2
STB = frozenset({"png", "jpeg", "gif", "bmp"})
"""The kinds that llama.cpp's decoder (stb_image) reads."""
_INHERITED = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""Variables of the process: no secret is among them."""


class Redrawer:
    """Draws what a model would see sideways, not at all, or larger than asked; other pictures stay as they are."""

    def __init__(self, limit: float = LIMIT) -> None:
        self._limit = limit
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._able: bool | None = None

    async def redraw(
        self, data: bytes, picture: Picture, *, reads: frozenset[str] | None, low: bool
    ) -> bytes | None:
        """The picture anew, None if it may stay as it is.

        ``reads`` are the kinds that the model's server decodes, None for all; ``low`` is the ``detail``. Without
        PyAV the wishes are reported as dropped. Raises UndecodableMedia.
        """
        turn = orientation_of(data, picture.kind)
        unread = reads is not None and picture.kind not in reads
        small = low and max(picture.width, picture.height) > SMALL
        if turn == UPRIGHT and not unread and not small:
            return None
        if not self._has_decoder():
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
        async with self._turn:
            return await self._drawn(data, picture.kind, turn, SMALL if small else 0)

    def _has_decoder(self) -> bool:
        if self._able is None:
            self._able = find_spec("av") is not None
        return self._able

    async def _drawn(self, data: bytes, kind: str, turn: int, longest: int) -> bytes:
        # Isolated (-I): neither the environment nor the working folder chooses what is imported.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(Path(program.__file__)), kind, str(turn), str(longest)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={name: os.environ[name] for name in _INHERITED if name in os.environ},
        )
        try:
            async with asyncio.timeout(self._limit):
                made, _ = await process.communicate(data)
        except TimeoutError:
            raise UndecodableMedia("The picture takes too long to decode.", param="messages") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0 or not made:
            raise UndecodableMedia("The picture cannot be decoded.", param="messages")
        return made
