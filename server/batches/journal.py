"""The results of a batch while it is at work: an append-only file of each run.

A line is ``NUMBER FLAG RESULT``: the number of the request's line in the input, ``o`` for an answer or ``e`` for
an error, and the result as JSON. Results are synced to the disk in groups, and count from then on. A run that was
taken over by another process may write on: of two results of one line the first read counts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

GROUP = 0.05
"""Seconds between two writes: results of that time share one sync."""
MOST_WAITING = 8 << 20
"""Bytes of results that may wait for the disk."""


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
    """The lines with a result, and how many of them are errors."""

    lines: Lines
    failed: int = 0


def entries(paths: Iterable[Path], done: Done) -> Iterator[tuple[bool, bytes]]:
    """The results of all runs, each line's once, as whether it is an answer and its JSON; ``done`` notes them.

    A result that was cut off by a crash is left out.
    """
    for path in paths:
        with path.open("rb") as file:
            for row in file:
                number, _, rest = row.partition(b" ")
                if not row.endswith(b"\n") or not number.isdigit() or int(number) in done.lines:
                    continue
                done.lines.add(int(number))
                done.failed += rest[:1] == b"e"
                yield rest[:1] == b"o", rest[2:-1]


def read_done(paths: Iterable[Path]) -> Done:
    """The lines that the journals have a result of."""
    done = Done(Lines())
    for _ in entries(paths, done):
        pass
    return done


class ResultJournal:
    """Appends results to the file of one run, in groups; ``flushed`` is called after each group.

    :meth:`write` runs in a task of its own, between the first :meth:`add` and :meth:`finish`.
    """

    def __init__(self, path: Path, done: Done, flushed: Callable[[], Awaitable[None]]) -> None:
        self._path = path
        self._done = done
        self._flushed = flushed
        self._waiting: list[tuple[int, bool, bytes]] = []
        self._bytes = 0
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._finishing = False
        self._writing = asyncio.create_task(self._write(), name="journal")
        self.failed: OSError | None = None

    async def add(self, number: int, answered: bool, result: bytes) -> None:
        """Append a result; waits while too many wait for the disk. Raises OSError once the disk failed."""
        await self._room.wait()
        if self.failed is not None:
            raise self.failed
        self._waiting.append((number, answered, result))
        self._bytes += len(result)
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
                    file = await asyncio.to_thread(_create, self._path)
                await asyncio.to_thread(_append, file, group)
                for number, answered, _ in group:
                    self._done.lines.add(number)
                    self._done.failed += not answered
                self._room.set()
                await self._flushed()
                if not self._finishing:
                    await asyncio.sleep(GROUP)
        except OSError as error:
            self.failed = error
            self._room.set()
        finally:
            if file >= 0:
                os.close(file)


def _create(path: Path) -> int:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return file


def _append(file: int, group: Sequence[tuple[int, bool, bytes]]) -> None:
    data = memoryview(
        b"".join(b"%d %s %s\n" % (number, b"o" if ok else b"e", result) for number, ok, result in group)
    )
    while data:
        data = data[os.write(file, data) :]
    os.fsync(file)
