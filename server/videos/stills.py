"""Reads videos in a process apart (:mod:`server.videos.stills_program`): their length, and stills of them."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import orjson

from catalog.errors import EngineMissing, UndecodableMedia
from catalog.types import Json
from server.videos import stills_program

LIMIT = 60.0
"""Seconds for one video, with the start of its process."""
AT_ONCE = 2
_INHERITED = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""Variables of the process: no secret is among them."""


class Stills:
    """Describes videos and makes stills of them, a few at a time."""

    def __init__(self, limit: float = LIMIT) -> None:
        self._limit = limit
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def describe(self, path: Path) -> Json | None:
        """``seconds``, ``width``, ``height``, ``fps`` and ``sound`` of a video; None without PyAV.

        Raises UndecodableMedia for a file that is no MP4 with pictures.
        """
        if find_spec("av") is None:
            return None
        told: Json = orjson.loads(await self._made("describe", path))
        return told

    async def make(self, what: Literal["thumbnail", "spritesheet"], path: Path) -> bytes:
        """A still as WebP, or a sheet of 16 as JPEG. Raises EngineMissing without PyAV, and UndecodableMedia."""
        if find_spec("av") is None:
            raise EngineMissing("stills", extra="speech", package="av")
        return await self._made(what, path)

    async def _made(self, what: str, path: Path) -> bytes:
        async with self._turn:
            # Isolated (-I): neither the environment nor the working folder chooses what is imported.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", str(Path(stills_program.__file__)), what, str(path)),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=DEVNULL,
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            )
            try:
                async with asyncio.timeout(self._limit):
                    made, _ = await process.communicate()
            except TimeoutError:
                raise UndecodableMedia("The video takes too long to decode.") from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode != 0 or not made:
            raise UndecodableMedia("The video cannot be decoded.")
        return made
