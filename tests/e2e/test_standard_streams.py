"""A server whose log cannot be written serves on, and ends as it would otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.serving import Served, free_port, wait_ready

SERVE = [sys.executable, "-m", "server.cli", "serve"]


def check(folder: Path, redirection: str, *, processes: int = 1, before: Callable[[], None] = lambda: None) -> str:
    """Serve behind a shell's redirection, ask, stop with SIGTERM; returns the content of the file ``out``."""
    port = free_port()
    line = f'exec "$@" {redirection}'
    process = subprocess.Popen(
        ["sh", "-c", line, "sh", *SERVE, "--port", str(port), "--workers", str(processes)],
        cwd=folder,
        env={**os.environ, "ROUNDHOUSE_DATA_DIR": str(folder / "data")},
    )
    before()
    server = Served(f"http://127.0.0.1:{port}", process, folder / "out")
    try:
        wait_ready(server)
        for _ in range(3):
            assert httpx.get(f"{server.url}/v1/models", trust_env=False).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    return server.log.read_text()


@pytest.mark.parametrize("processes", [1, 2])
def test_without_standard_error_the_log_goes_to_standard_output(tmp_path: Path, processes: int) -> None:
    log = check(tmp_path, ">out 2>&-", processes=processes)
    assert "listening" in log
    assert log.count(" GET /v1/models ") == 3


def test_without_any_standard_stream_it_serves_and_no_file_takes_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    assert check(tmp_path, "<&- >&- 2>&-") == ""
    for file in (tmp_path / "data").rglob("*"):
        assert not file.is_file() or b"listening" not in file.read_bytes()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_log_whose_reader_has_gone_stops_nothing(tmp_path: Path, processes: int) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    (tmp_path / "out").touch()

    def read_and_go() -> None:
        with pipe.open("rb"):
            pass

    check(tmp_path, f">out 2>{pipe}", processes=processes, before=read_and_go)


def test_a_log_on_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    check(tmp_path, ">out 2>/dev/full")


def test_a_start_that_fails_without_standard_error_says_so_on_standard_output(tmp_path: Path) -> None:
    failed = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *SERVE, "--config", "missing.toml"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert failed.returncode == 1
    assert "Cannot read the settings file missing.toml" in failed.stdout
