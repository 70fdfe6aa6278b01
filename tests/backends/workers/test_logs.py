"""The logs of workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.workers.logs import WorkerLog


def test_a_log_is_appended_to_and_its_end_read(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path / "logs", "m", limit=10_000)
    assert log.tail(5) == ""
    for text in (b"one\ntwo\n", b"three\n"):
        with log.append() as file:
            file.write(text)
    assert log.tail(2) == "two\nthree\n"
    assert log.tail(0) == ""
    assert log.tail(100) == "one\ntwo\nthree\n"


def test_what_is_read_can_begin_where_this_start_began(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path, "m", limit=10_000)
    with log.append() as file:
        file.write(b"of an earlier life\n")
    before = log.size()
    with log.append() as file:
        file.write(b"of this one\n")
    assert log.tail(10, since=before) == "of this one\n"


def test_a_log_that_grows_is_cut_while_its_worker_writes_on(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path, "m", limit=10_000)
    with log.append() as file:
        for i in range(2000):
            file.write(b"line %d\n" % i)
        log.trim()
        file.write(b"after\n")
    assert log.path.read_bytes() == b"after\n"
    assert log.older.stat().st_size == 10_000
    assert log.tail(2) == "line 1999\nafter\n", "the older file is read on"


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b:c", "x" * 200, "ünïcode"])
def test_a_models_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    log = WorkerLog(tmp_path / "logs", name, limit=10_000)
    assert log.path.resolve().parent == (tmp_path / "logs").resolve()
    with log.append() as file:
        file.write(b"x\n")
    assert log.tail(1) == "x\n"


def test_two_models_never_share_a_log(tmp_path: Path) -> None:
    assert WorkerLog(tmp_path, "a/b", limit=1).path != WorkerLog(tmp_path, "a:b", limit=1).path
