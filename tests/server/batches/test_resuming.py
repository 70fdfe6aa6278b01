"""A batch goes on where it stopped: no line is lost, and none is in the results twice."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path
from typing import IO, Any

import orjson
import pytest

from routing.clock import SystemClock
from server.background import works
from server.batches.journal import Done, JournalEntry, Lines, ResultJournal, entries, read_done
from server.batches.lines import opened
from server.runtime import Runtime
from server.settings import Settings
from server.storage.runner import Runner
from tests.server.batches.helpers import chat_line, content, jsonl, send, until, works_of
from tests.server.conftest import Gateway


async def nothing() -> None:
    return None


async def write(path: Path, *results: Any) -> Done:
    done = Done(Lines())
    journal = ResultJournal(path, done, nothing)
    for result in results:
        await journal.add(*result)
    await journal.finish()
    assert journal.failed is None
    return done


async def test_a_journal_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "1.journal"
    done = await write(path, (3, True, b'{"a":1}'), (1, False, b'{"b":2}'))
    assert (done.lines.count, done.failed) == (2, 1)
    again = Done(Lines())
    assert list(entries([path], again)) == [
        JournalEntry(True, b'{"a":1}', None),
        JournalEntry(False, b'{"b":2}', None),
    ]
    assert 1 in again.lines
    assert 3 in again.lines
    assert 2 not in again.lines
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_journal_tells_the_tokens_of_answers_and_one_of_an_older_version_has_none(tmp_path: Path) -> None:
    path = tmp_path / "1.journal"
    await write(path, (1, True, b'{"a": "1 2"}', (12, 3, 4, 0)))
    with path.open("ab") as file:
        file.write(b'2 o {"b": 2}\n')
    found = list(entries([path], Done(Lines())))
    assert found == [JournalEntry(True, b'{"a": "1 2"}', (12, 3, 4, 0)), JournalEntry(True, b'{"b": 2}', None)]


async def test_a_result_that_a_crash_cut_off_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "1.journal"
    await write(path, (1, True, b"{}"), (2, True, b'{"long": "text"}'))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert read_done([path]).lines.count == 1, whole[first:cut]


async def test_of_two_results_of_a_line_the_first_counts(tmp_path: Path) -> None:
    one, two = tmp_path / "1.journal", tmp_path / "2.journal"
    await write(one, (1, True, b"1"), (2, True, b"2"))
    await write(two, (2, False, b"3"), (3, True, b"4"))
    done = Done(Lines())
    assert [entry.result for entry in entries([one, two], done)] == [b"1", b"2", b"4"]
    assert done.failed == 0


async def test_a_journal_whose_disk_fails_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server.batches.journal._append", full)
    done = Done(Lines())
    journal = ResultJournal(tmp_path / "1.journal", done, nothing)
    await journal.add(1, True, b"{}")
    await asyncio.wait_for(journal._writing, 20)
    with pytest.raises(OSError, match="No space"):
        await journal.add(2, True, b"{}")
    await journal.finish()
    assert done.lines.count == 0


def runtime_of(gateway: Gateway) -> Runtime:
    runtime = gateway.services.runtime
    assert runtime is not None
    return runtime


async def crash(gateway: Gateway) -> None:
    """Stop the work as a death does: the tasks end, and nothing of theirs is stored."""
    runtime = runtime_of(gateway)
    assert runtime.runner is not None
    await runtime.runner.stop()


def restart(gateway: Gateway) -> None:
    runtime = runtime_of(gateway)
    runtime.runner = Runner(runtime.storage.records, SystemClock(), works(runtime, Settings()))
    runtime.runner.start()


class Turnstile(asyncio.Event):
    """Lets some calls of the dispatcher pass, and holds the others."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.passes = passes
        self.held = asyncio.Event()

    async def wait(self) -> Any:
        self.passes -= 1
        if self.passes < 0:
            self.held.set()
            await super().wait()
        return True


async def test_a_batch_whose_process_dies_goes_on_and_loses_nothing(gateway: Gateway) -> None:
    works_of(gateway)["batch"]._concurrency = 4
    turnstile = gateway.dispatcher.gate = Turnstile(20)
    batch = await send(gateway, jsonl(*(chat_line(f"r{n}") for n in range(50))))
    await asyncio.wait_for(turnstile.held.wait(), 20)
    async with asyncio.timeout(20):
        while (await until(gateway, batch, "in_progress"))["request_counts"]["completed"] < 19:
            await asyncio.sleep(0.01)
    await crash(gateway)
    journal = runtime_of(gateway).files.path(f"{batch['id']}.1.journal")
    with journal.open("ab") as file:
        file.write(b'50 o {"cut')  # a group of which the death left a part
    gateway.dispatcher.gate = None
    before = len(gateway.dispatcher.facts)
    restart(gateway)
    done = await until(gateway, batch, "completed", "failed")
    assert done["request_counts"] == {"total": 50, "completed": 50, "failed": 0}
    lines = await content(gateway, done["output_file_id"])
    assert Counter(line["custom_id"] for line in lines) == Counter(f"r{n}" for n in range(50))
    assert len(gateway.dispatcher.facts) - before <= 31


async def test_a_batch_that_dies_while_its_files_are_made_has_them_once(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = works_of(gateway)["batch"]
    change = work._change
    dying = asyncio.Event()

    async def die_at_the_end(*arguments: Any, **members: Any) -> Any:
        if members.get("ended"):
            dying.set()
            await asyncio.Event().wait()
        return await change(*arguments, **members)

    monkeypatch.setattr(work, "_change", die_at_the_end)
    batch = await send(gateway, jsonl(chat_line("a"), chat_line("b")))
    await asyncio.wait_for(dying.wait(), 20)
    await crash(gateway)
    restart(gateway)
    done = await until(gateway, batch, "completed")
    listed = (await gateway.client.get("/v1/files", params={"purpose": "batch_output"})).json()["data"]
    assert [file["id"] for file in listed] == [done["output_file_id"]]
    lines = await content(gateway, done["output_file_id"])
    assert sorted(line["custom_id"] for line in lines) == ["a", "b"]


async def test_a_batch_waits_for_a_disk_that_fails_and_goes_on(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.batches import journal

    append, failures = journal._append, 2

    def failing(*arguments: Any) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError(28, "No space left on device")
        append(*arguments)

    monkeypatch.setattr(journal, "_append", failing)
    batch = await send(gateway, jsonl(*(chat_line(f"r{n}") for n in range(30))))
    done = await until(gateway, batch, "completed", "failed")
    assert done["request_counts"] == {"total": 30, "completed": 30, "failed": 0}
    assert failures < 0


async def test_a_running_batch_is_cancelled_from_another_process(gateway: Gateway) -> None:
    runtime = runtime_of(gateway)
    gateway.dispatcher.gate = asyncio.Event()
    batch = await send(gateway, jsonl(chat_line("a")))
    await asyncio.wait_for(gateway.dispatcher.waiting.wait(), 20)
    mine, runtime.runner = runtime.runner, None  # the process that is asked has no part in the work
    assert (await gateway.client.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 200
    done = await until(gateway, batch, "cancelled")
    assert done["request_counts"] == {"total": 1, "completed": 0, "failed": 0}
    runtime.runner = mine


async def test_lines_are_read_in_bounded_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.batches import lines

    monkeypatch.setattr(lines, "BLOCK", 100)
    path = tmp_path / "in"
    path.write_bytes(b"".join(orjson.dumps({"n": n}) + b"\n" for n in range(100)) + b"x" * 1000)
    blocks = [block async for block in lines.read_lines(path, 50)]
    assert all(sum(len(line.data) for line in block) <= 150 for block in blocks)
    numbers = [line.number for block in blocks for line in block]
    assert numbers == list(range(1, 102))
    assert len(blocks[-1][-1].data) == 51


async def test_a_file_that_a_thread_opens_for_a_cancelled_reader_is_closed(tmp_path: Path) -> None:
    asked, go = threading.Event(), threading.Event()
    files: list[IO[bytes]] = []

    def open_slowly() -> IO[bytes]:
        asked.set()
        assert go.wait(20)
        files.append((tmp_path / "in").open("wb"))
        return files[0]

    async def read() -> None:
        async with opened(open_slowly):
            raise AssertionError("cancelled before")

    reading = asyncio.create_task(read())
    await asyncio.to_thread(asked.wait, 20)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    go.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert files[0].closed
