"""Servers under test: the fast upstream, and Roundhouse in front of it. Other gateways are in ``peers``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.client import Target
from tests.bench.fetching import ROOT, Unavailable
from tests.e2e.serving import free_port

KEY = "rh-bench-0123456789abcdef"
METRICS_KEY = "metrics-of-the-bench"


@dataclass(frozen=True)
class Contestant:
    """A server under test. ``pid`` is ``None`` for what has no process of its own."""

    name: str
    base: str
    model: str
    pid: int | None = None
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def target(self, path: str = "/chat/completions") -> Target:
        """Where its requests go."""
        key = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return Target(self.base + path, {**key, **self.headers})


@contextmanager
def upstream() -> Iterator[Contestant]:
    """The fast upstream itself."""
    port = free_port()
    with started([sys.executable, "-m", "tests.bench.upstream", str(port)], cwd=ROOT) as process:
        wait_port(port, process)
        yield Contestant("direct", f"http://127.0.0.1:{port}/v1", "fast", process.pid)


ROW = """
[[model]]
id = "bench-{name}"
capabilities = ["chat", "embed"]
limits = {{ context_window = 128000 }}
price = {{ input = 1.0, output = 2.0 }}
source = {{ kind = "upstream", endpoint = "bench", model = "{name}" }}
"""


@contextmanager
def roundhouse(
    folder: Path,
    behind: Contestant,
    *arguments: str,
    rows: Sequence[str] = ("fast",),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Contestant]:
    """One gateway with a key, the router and everything that is on by default.

    ``rows`` are the behaviours of :mod:`tests.bench.upstream` to have as models, ``bench-NAME``; a request for
    ``auto`` goes to one of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = f'[[endpoint]]\nid = "bench"\nbase_url = "{behind.base}"\n'
    text += "".join(ROW.format(name=name) for name in rows)
    (folder / "roundhouse.toml").write_text(text, encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-m", "server.cli", "serve", "--port", str(port), *arguments]
    env = {
        "PYTHONPATH": str(ROOT),
        "ROUNDHOUSE_DATA_DIR": str(folder / "data"),
        "ROUNDHOUSE_API_KEYS": KEY,
        "ROUNDHOUSE_METRICS_KEYS": METRICS_KEY,
        **(environment or {}),
    }
    with started(command, cwd=folder, env=env) as process:
        wait_http(f"http://127.0.0.1:{port}/ready", process, folder / "log")
        yield Contestant("Roundhouse", f"http://127.0.0.1:{port}/v1", "auto", process.pid, KEY)


@contextmanager
def started(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process until the block ends; its output goes to ``cwd/log``, or nowhere from the root."""
    log = (cwd if cwd != ROOT else Path(os.devnull).parent) / ("log" if cwd != ROOT else "null")
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=cwd, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_port(port: int, process: subprocess.Popen[bytes], within: float = 20.0) -> None:
    """Wait until a port is listened on. Raises Unavailable."""
    end = time.monotonic() + within
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise Unavailable(f"nothing listens on port {port}")


def wait_http(url: str, process: subprocess.Popen[bytes], log: Path, within: float = 30.0) -> None:
    """Wait until an address answers 200. Raises Unavailable with the end of the log."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + within
    while time.monotonic() < end and process.poll() is None:
        try:
            with opener.open(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise Unavailable(f"{url} did not become ready:\n{log.read_text(errors='replace')[-4000:]}")
