"""A disk without room: no line is asked whose answer could not be kept, and none is asked twice."""

from __future__ import annotations

import asyncio
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from server.batches import journal, work
from server.storage import files
from tests.server.api.stored.test_files import bounds
from tests.server.batches.helpers import CHAT, chat_line, content, jsonl, send, until, works_of
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

            close = free

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


class FullFile(BytesIO):
    """A buffered file on a full disk: it fails when its buffer is written, and again when it is closed."""

    name = "full"

    def flush(self) -> None:
        raise OSError(28, "No space left on device")

    def __exit__(self, *_: object) -> None:
        self.flush()


async def test_a_message_batch_on_a_full_disk_is_503(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.storage.files.NamedTemporaryFile", lambda **_: FullFile())
    message = {"model": "parrot", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    body = {"requests": [{"custom_id": "a", "params": message}]}
    answer = await gateway.client.post("/v1/messages/batches", json=body)
    assert answer.status_code == 503, answer.text
    assert "No space left" in answer.json()["error"]["message"]


async def test_a_batch_whose_files_cannot_be_made_completes_once_they_can(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, failures = files._publish, 2

    def failing(content: Any, path: Path) -> None:
        nonlocal failures
        if path.name.startswith("file-") and gateway.dispatcher.facts:
            failures -= 1
            if failures >= 0:
                raise OSError(28, "No space left on device")
        publish(content, path)

    monkeypatch.setattr(files, "_publish", failing)
    batch = await send(gateway, jsonl(chat_line("a")))
    done = await until(gateway, batch, "completed", "failed")
    assert (done["status"], failures) == ("completed", -1)
    assert len(await content(gateway, done["output_file_id"])) == 1


async def test_a_key_over_its_room_begins_no_batch_until_it_deletes_files(gateway: Gateway) -> None:
    lines = jsonl(chat_line("a"))
    bounds(gateway, file_bytes_per_key=len(lines) + 10)
    first = await until(gateway, await send(gateway, lines), "completed")  # its results pass the bound
    again = {"input_file_id": first["input_file_id"], "endpoint": CHAT, "completion_window": "24h"}
    refused = await gateway.client.post("/v1/batches", json=again)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "storage_full")
    await gateway.client.delete(f"/v1/files/{first['output_file_id']}")
    assert (await gateway.client.post("/v1/batches", json=again)).status_code == 200


async def test_results_of_message_batches_take_room_of_their_key(gateway: Gateway) -> None:
    bounds(gateway, file_bytes_per_key=150)
    message = {"model": "parrot", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    body = {"requests": [{"custom_id": "a", "params": message}]}
    made = (await gateway.client.post("/v1/messages/batches", json=body)).json()
    async with asyncio.timeout(20):
        while (await gateway.client.get(f"/v1/messages/batches/{made['id']}")).json()["ended_at"] is None:
            await asyncio.sleep(0.01)
    refused = await gateway.client.post("/v1/messages/batches", json=body)
    assert refused.status_code == 429, refused.text
    assert (await gateway.client.delete(f"/v1/messages/batches/{made['id']}")).status_code == 200
    assert (await gateway.client.post("/v1/messages/batches", json=body)).status_code == 200


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


def test_room_that_is_asked_for_after_the_end_is_not_taken(tmp_path: Path) -> None:
    spare = journal.Spare(tmp_path)
    spare.grow(1000)
    spare.close()
    spare.grow(2000)  # by a thread whose caller was cancelled
    assert spare.size == 0
