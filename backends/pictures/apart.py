"""Runs the program that decodes pictures and videos (:mod:`backends.pictures.program`) in a process apart."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from importlib.util import find_spec
from pathlib import Path

from backends.pictures import program

AT_ONCE = 2
_INHERITED = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""Variables of the process: no secret is among them."""


class TookTooLong(Exception):
    """The process did not end in time."""


class Decoding:
    """Starts the program, a few processes at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._able: bool | None = None

    def is_able(self) -> bool:
        """Whether PyAV, which the program needs, is here."""
        if self._able is None:
            self._able = find_spec("av") is not None
        return self._able

    async def run(self, *arguments: str, data: bytes, limit: float) -> bytes | None:
        """The output of the program; None where it fails. Raises TookTooLong after ``limit`` seconds."""
        async with self._turn:
            return await _run(arguments, data, limit)


async def _run(arguments: tuple[str, ...], data: bytes, limit: float) -> bytes | None:
    # Isolated (-I): neither the environment nor the working folder chooses what is imported.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", str(Path(program.__file__)), *arguments),
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        env={name: os.environ[name] for name in _INHERITED if name in os.environ},
    )
    try:
        async with asyncio.timeout(limit):
            made, _ = await process.communicate(data)
    except TimeoutError:
        raise TookTooLong from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return made if process.returncode == 0 and made else None
