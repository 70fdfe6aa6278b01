"""Looks at files end in time, whatever the file system does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.store import file_checks
from catalog.store.file_checks import FileChecks, read_regular


@pytest.fixture
def dead_mount() -> Iterator[threading.Event]:
    answers = threading.Event()
    yield answers
    answers.set()


def test_a_look_that_hangs_spoils_no_other(dead_mount: threading.Event) -> None:
    checks: FileChecks[bool] = FileChecks(timeout=0.05)
    assert checks.run({"hangs": dead_mount.wait, "answers": lambda: True}) == {"answers": True}


def test_looks_that_end_one_after_another_have_more_time_together_than_one_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float | None] = []

    class Ends(threading.Semaphore):
        def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return super().acquire(blocking, 20)

    passed = iter(range(20))
    monkeypatch.setattr("catalog.store.file_checks.threading.Semaphore", Ends)
    monkeypatch.setattr("catalog.store.file_checks.time.monotonic", lambda: 0.9 * next(passed))
    checks: FileChecks[bool] = FileChecks(timeout=1.0)
    assert len(checks.run(dict.fromkeys("abcdefg", lambda: True))) == 7
    assert waits[:4] == [1.0] * 4, "each end renews the wait"
    assert waits[4] == pytest.approx(0.5), "but not beyond all bounds"


def test_a_look_that_hangs_is_not_started_again_until_it_has_ended(dead_mount: threading.Event) -> None:
    checks: FileChecks[bool] = FileChecks(timeout=0.05)
    started: list[threading.Thread] = []

    def hang() -> bool:
        started.append(threading.current_thread())
        return dead_mount.wait()

    for _ in range(5):
        assert checks.run({"hangs": hang}) == {}
    assert len(started) == 1
    dead_mount.set()
    started[0].join()
    assert checks.run({"hangs": hang}) == {"hangs": True}
    assert len(started) == 2


def test_a_regular_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (file := tmp_path / "file").write_bytes(b"12345")
    assert read_regular(file, limit=5) == b"12345"
    with pytest.raises(OSError, match="Larger than 4 bytes"):
        read_regular(file, limit=4)


def test_a_file_on_a_mount_that_hangs_is_an_error(
    tmp_path: Path, dead_mount: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_checks, "_read", lambda *_: dead_mount.wait())
    with pytest.raises(OSError, match="No answer from the file system"):
        read_regular(tmp_path / "file", timeout=0.05)
