"""Runs a program that downloads into a folder, and tells how many bytes have come."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_POLL_SECONDS = 0.2


def run_watched(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    folder: Path,
    watch: Callable[[int], None],
) -> int:
    """Run ``command`` to its end and return its exit status; its output goes to ``log``.

    ``watch`` gets the bytes under ``folder`` five times a second. What it raises ends the program and is raised.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - fixed arguments; names and versions are ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
        )
        try:
            while _running(process):
                watch(_bytes_in(folder))
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    return process.returncode


def _running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _bytes_in(folder: Path) -> int:
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(directory) / name).stat().st_size
            except OSError:  # the program has just moved or removed it
                continue
    return total
