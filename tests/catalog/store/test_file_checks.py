"""Looks at files end in time, whatever the file system does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from catalog.store.file_checks import FileChecks


@pytest.fixture
def dead_mount() -> Iterator[threading.Event]:
    answers = threading.Event()
    yield answers
    answers.set()


def test_a_look_that_hangs_spoils_no_other(dead_mount: threading.Event) -> None:
    checks: FileChecks[bool] = FileChecks(timeout=0.05)
    assert checks.run({"hangs": dead_mount.wait, "answers": lambda: True}) == {"answers": True}


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
