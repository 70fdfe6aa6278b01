"""The results of a batch while it is at work: an append-only file of each run.

A line is ``NUMBER FLAG RESULT``: the number of the request's line in the input, ``o`` for an answer or ``e`` for
an error, and the result as JSON. The ``o`` has the answer's tokens behind it (``o12,3,0,0``), so that the results
of a whole batch need not be parsed again for its usage; journals of older versions lack them. Results are synced
to the disk in groups, and count from then on. A run that was taken over by another process may write on: of two
results of one line the first read counts.

Room for the results of lines that are being asked is kept in a spare file, which gives way when the disk is full,
so answers that were paid for can be written.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, ParamSpec, TypeVar

GROUP = 0.05
"""Seconds between two writes: results of that time share one sync."""
MOST_WAITING = 8 << 20
"""Bytes of results that may wait for the disk."""
USUAL = 16 << 10
"""Bytes that room is kept for per line, until a longer result was seen."""


ROW_OVERHEAD = 16
"""Bytes of a line beside its result."""
P = ParamSpec("P")
T = TypeVar("T")


class Lines(Container[int]):
    """A set of line numbers, one bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self.count = 0

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        place, bit = divmod(number, 8)
        return place < len(self._bits) and bool(self._bits[place] >> bit & 1)

    def add(self, number: int) -> None:
        if number in self:
            return
        place, bit = divmod(number, 8)
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 - len(self._bits)))
        self._bits[place] |= 1 << bit
        self.count += 1


@dataclass(slots=True)
class Done:
    """The lines with a result, how many of them are errors, and the bytes of the longest result."""

    lines: Lines
    failed: int = 0
    longest: int = 0


Tokens = tuple[int, int, int, int]
"""Tokens of an answer: input, output, cached ones of the input, and reasoning ones of the output."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A result of a line: whether it is an answer, its JSON, and its tokens where they are known."""

    answered: bool
    result: bytes
    tokens: Tokens | None


def entries(paths: Iterable[Path], done: Done) -> Iterator[JournalEntry]:
    """The results of all runs, each line's once; ``done`` notes them.

    A result that was cut off by a crash is left out.
    """
    for path in paths:
        with path.open("rb") as file:
            for row in file:
                number, _, rest = row.partition(b" ")
                if not row.endswith(b"\n") or not number.isdigit() or int(number) in done.lines:
                    continue
                flag, _, result = rest.partition(b" ")
                done.lines.add(int(number))
                done.failed += flag == b"e"
                done.longest = max(done.longest, len(row))
                yield JournalEntry(flag[:1] == b"o", result[:-1], _tokens(flag[1:]))


def _tokens(counts: bytes) -> Tokens | None:
    if not counts:
        return None
    read, written, cached, reasoning = map(int, counts.split(b","))
    return read, written, cached, reasoning


def read_done(paths: Iterable[Path]) -> Done:
    """The lines that the journals have a result of."""
    done = Done(Lines())
    for _ in entries(paths, done):
        pass
    return done


class ResultJournal:
    """Appends results to the file of one run, in groups; ``flushed`` is called after each group.

    ``full`` is set once the disk has no room for further lines, ``failed`` once a result could not be written.
    """

    def __init__(self, path: Path, done: Done, flushed: Callable[[], Awaitable[None]]) -> None:
        self._path = path
        self._done = done
        self._flushed = flushed
        self._waiting: list[tuple[int, bytes, bytes]] = []
        self._bytes = 0
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._finishing = False
        self._writing = asyncio.create_task(self._write(), name="journal")
        self._spare = Spare(path.parent)
        self._sparing = asyncio.Lock()
        self._asked = 0
        self.full: OSError | None = None
        self.failed: OSError | None = None

    async def reserve(self, lines: int) -> bool:
        """Keep room for the results of lines that are about to be asked; False if the disk is full."""
        async with self._sparing:
            if self.full is not None:
                return False
            need = (self._asked + lines) * max(USUAL, self._done.longest)
            if need > self._spare.size:
                try:
                    await asyncio.to_thread(self._spare.grow, need)
                except OSError as error:
                    self.full = error
                    return False
            self._asked += lines
            return True

    async def add(self, number: int, answered: bool, result: bytes, tokens: Tokens | None = None) -> None:
        """Append a result; waits while too many wait for the disk. Raises OSError once the disk failed."""
        await self._room.wait()
        if self.failed is not None:
            raise self.failed
        flag = b"e" if not answered else b"o" if tokens is None else b"o%d,%d,%d,%d" % tokens
        self._waiting.append((number, flag, result))
        self._bytes += len(result)
        self._done.longest = max(self._done.longest, len(result) + ROW_OVERHEAD)
        if self._bytes > MOST_WAITING:
            self._room.clear()
        self._came.set()

    async def finish(self) -> None:
        """Write what waits and close the file, also if this is cancelled."""
        self._finishing = True
        self._came.set()
        await asyncio.shield(self._writing)

    async def _write(self) -> None:
        file = -1
        try:
            while not self._finishing or self._waiting:
                await self._came.wait()
                self._came.clear()
                group, self._waiting, self._bytes = self._waiting, [], 0
                if not group:
                    continue
                if file < 0:
                    file = await self._retried(_create, self._path)
                await self._retried(_append, file, group)
                self._asked = max(0, self._asked - len(group))
                for number, flag, _ in group:
                    self._done.lines.add(number)
                    self._done.failed += flag == b"e"
                self._room.set()
                await self._flushed()
                if not self._finishing:
                    await asyncio.sleep(GROUP)
        except OSError as error:
            self.full = self.failed = error
            self._room.set()
        finally:
            self._spare.close()
            if file >= 0:
                os.close(file)

    async def _retried(self, write: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Write to the disk, a second time in the room of the spare file if the disk is full."""
        try:
            return await asyncio.to_thread(write, *arguments, **named)
        except OSError as error:
            async with self._sparing:
                self.full = self.full or error
                self._spare.free()
            return await asyncio.to_thread(write, *arguments, **named)


class Spare:
    """A file without a name that takes room on a disk until it is freed, or its process ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._lock = Lock()
        self._closed = False
        self.size = 0

    def grow(self, size: int) -> None:
        """Take this many bytes in all, or none after :meth:`close`. Raises OSError for a disk that has less."""
        with self._lock:
            if self._closed:
                return
            if self._file is None:
                self._file = TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by free()
            file = self._file.fileno()
            if sys.platform == "darwin":  # without posix_fallocate
                os.pwrite(file, bytes(size - self.size), self.size)
                os.fsync(file)
            else:
                os.posix_fallocate(file, 0, size)
            self.size = size

    def free(self) -> None:
        """Give the room back."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file, self.size = None, 0

    def close(self) -> None:
        """Give the room back for good: a thread whose caller was cancelled may still be about to grow it."""
        self._closed = True
        self.free()


def _create(path: Path) -> int:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return file


def _append(file: int, group: Sequence[tuple[int, bytes, bytes]]) -> None:
    data = memoryview(b"".join(b"%d %s %s\n" % row for row in group))
    start = os.fstat(file).st_size
    try:
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    except OSError:
        os.ftruncate(file, start)  # what comes next must begin a line
        raise
