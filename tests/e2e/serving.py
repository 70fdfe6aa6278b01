"""Starts ``roundhouse serve`` as a process on a free port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"


def free_port() -> int:
    """A port that is free now; another process may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Iterator[Served]:
    """Serve until the block ends; the working directory is ``folder`` (put a roundhouse.toml there)."""
    port = free_port()
    log = folder / "server.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [python, "-m", "server.cli", "serve", "--port", str(port), *arguments],
            cwd=folder,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    server = Served(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def wait_ready(server: Served, *, within: float = 120.0) -> None:
    """Wait until /ready answers 200; fails with the server's log."""
    end = time.monotonic() + within
    with httpx.Client(trust_env=False, timeout=2) as client:
        while time.monotonic() < end:
            if server.process.poll() is not None:
                break
            try:
                if client.get(f"{server.url}/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
    raise AssertionError(f"the server did not become ready:\n{server.log.read_text(errors='replace')}")


def eventually(check: Callable[[], bool], *, within: float) -> bool:
    """Whether a condition became true within so many seconds."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.01)
    return False
