"""Workers end with their gateway, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from backends.workers.process import SocketFolder


@contextmanager
def gateway(engine: str, logs: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process], Path]]:
    command = [sys.executable, "-m", "tests.backends.workers.parent", engine, str(logs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            worker, child, socket = process.stdout.readline().split()
            yield process, [psutil.Process(int(worker)), psutil.Process(int(child))], Path(socket)
        finally:
            process.kill()


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def until_ended(processes: list[psutil.Process]) -> None:
    """Wait until none of them runs; fails after half a minute."""
    deadline = time.monotonic() + 30
    while running(processes):
        assert time.monotonic() < deadline, running(processes)
        time.sleep(0.01)


@pytest.mark.parametrize("engine", ["fake", "fake-children"])
def test_kill_9_of_the_gateway_leaves_no_worker_and_nothing_that_a_worker_started(
    engine: str, tmp_path: Path
) -> None:
    with gateway(engine, tmp_path) as (process, processes, socket):
        assert len(running(processes)) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
        until_ended(processes)
        assert socket.parent.exists(), "nobody was left to remove it ..."
        SocketFolder().close()
        assert not socket.parent.exists(), "the next gateway does"


def test_the_kernel_ends_a_worker_whose_engine_holds_the_interpreter(tmp_path: Path) -> None:
    """With the worker's own program, a worker is killed even if none of its threads can run."""
    with gateway("fake-main", tmp_path) as (process, processes, _):
        worker = processes[0]
        worker.suspend()
        process.send_signal(signal.SIGKILL)
        process.wait()
        until_ended([worker])
        for child in running(processes[1:]):
            child.kill()


def test_the_folder_of_a_gateway_that_runs_is_left_alone() -> None:
    first = SocketFolder()
    try:
        SocketFolder().close()
        assert first.path.exists()
    finally:
        first.close()
