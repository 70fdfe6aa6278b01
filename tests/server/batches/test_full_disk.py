"""A disk without room: no line is asked whose answer could not be kept, and none is asked twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from server.batches import journal, work
from tests.server.batches.helpers import chat_line, content, jsonl, send, until, works_of
from tests.server.conftest import Gateway

RESULT = 1000
"""More bytes than a result of these tests has."""


class Disk:
    """A disk of so many bytes, taken by journals and their spare files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self.spares: dict[int, int] = {}
        self.journals = self.refused = 0
        append, disk = journal._append, self

        def bounded(file: int, group: Any) -> None:
            disk.take(size := sum(len(result) for _, _, result in group))
            append(file, group)
            disk.journals += size

        class Spare:
            def __init__(self, folder: Path) -> None:
                self.size = 0

            def grow(self, size: int) -> None:
                disk.take(size - self.size)
                disk.spares[id(self)] = self.size = size

            def free(self) -> None:
                disk.spares.pop(id(self), None)
                self.size = 0

        monkeypatch.setattr(journal, "_append", bounded)
        monkeypatch.setattr(journal, "USUAL", RESULT)
        monkeypatch.setattr(work, "USUAL", RESULT)
        monkeypatch.setattr(journal, "Spare", Spare)
        monkeypatch.setattr(work, "Spare", Spare)

    def take(self, size: int) -> None:
        if self.journals + sum(self.spares.values()) + size > self.room:
            self.refused += 1
            raise OSError(28, "No space left on device")
        self.refused = 0

    async def stays_full(self) -> None:
        """Wait until nothing has been written for several tries."""
        async with asyncio.timeout(20):
            while self.refused < 5:
                await asyncio.sleep(0.01)


async def test_a_full_disk_makes_no_batch_ask_a_line_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    works_of(gateway)["batch"]._concurrency = 8
    disk = Disk(monkeypatch, 10 * RESULT)
    batch = await send(gateway, jsonl(*(chat_line(f"r{n}") for n in range(40))))
    await disk.stays_full()
    told = await until(gateway, batch, "in_progress")
    assert len(gateway.dispatcher.facts) < 40
    assert told["request_counts"]["completed"] == len(gateway.dispatcher.facts) > 8
    disk.room = 100 * RESULT
    done = await until(gateway, batch, "completed", "failed")
    assert done["request_counts"] == {"total": 40, "completed": 40, "failed": 0}
    assert len(gateway.dispatcher.facts) == 40
    assert len(await content(gateway, done["output_file_id"])) == 40


async def test_results_longer_than_expected_are_lost_once_and_then_expected(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    works_of(gateway)["batch"]._concurrency = 4
    disk = Disk(monkeypatch, 40)
    monkeypatch.setattr(journal, "USUAL", 1)
    monkeypatch.setattr(work, "USUAL", 1)
    batch = await send(gateway, jsonl(*(chat_line(f"r{n}") for n in range(20))))
    await disk.stays_full()
    assert len(gateway.dispatcher.facts) <= 8
    disk.room = 100 * RESULT
    done = await until(gateway, batch, "completed", "failed")
    assert done["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
