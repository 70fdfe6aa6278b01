"""Starts the gateway of :mod:`tests.faults.gateway`, sends it requests and observes it from outside."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from catalog.types import Json
from tests.faults.gateway import FAKE

ROOT = Path(__file__).parents[2]
FIRST = ("chrt", "--rr", "5") if os.geteuid() == 0 and shutil.which("chrt") else ()
"""Prefix of a command whose latency is measured: it gives the process and its children real-time priority."""


def worker_row(name: str, folder: Path, **options: Any) -> Json:
    """A catalogue row of the fake engine; its worker keeps the journal of ``folder``."""
    return {
        "id": name,
        "capabilities": ["chat"],
        "engine": "fake",
        "source": {"kind": "path", "path": str(FAKE)},
        "size": {"memory": 1_000_000},
        "options": {"journal": str(folder / "journal.jsonl"), **options},
    }


def upstream_row(name: str, endpoint: str, **more: Any) -> Json:
    """A catalogue row of a fake OpenAI."""
    source = {"kind": "upstream", "endpoint": endpoint, "model": "fake-chat"}
    return {"id": name, "capabilities": ["chat"], "source": source, "price": {"input": 0, "output": 0}, **more}


@dataclass
class Gateway:
    """A running gateway. ``settings`` is what it was started with; see :meth:`change`."""

    process: subprocess.Popen[bytes]
    folder: Path
    settings: Json
    url: str = ""
    _journal: list[Json] = field(default_factory=list)
    _offset: int = 0
    _reading: threading.Lock = field(default_factory=threading.Lock)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    @property
    def log_file(self) -> Path:
        return self.folder / "gateway.log"

    def log(self, event: str | None = None) -> list[Json]:
        """Structured log lines so far; only those of ``event`` if given."""
        lines = [
            json.loads(line) for line in self.log_file.read_text(errors="replace").splitlines() if line[:1] == "{"
        ]
        return [line for line in lines if event in (None, line.get("event"))]

    def journal(self, event: str | None = None) -> list[Json]:
        """Journal lines of its fake workers, in order; only those of ``event`` if given."""
        file = self.folder / "journal.jsonl"
        if file.exists():
            with self._reading, file.open("rb") as opened:
                opened.seek(self._offset)
                for line in opened:
                    if line.endswith(b"\n"):
                        self._journal.append(json.loads(line))
                        self._offset += len(line)
        return [line for line in self._journal if event in (None, line["event"])]

    def signal(self, number: signal.Signals) -> float:
        """Send a signal; returns the time by the machine's monotonic clock."""
        self.process.send_signal(number)
        return time.monotonic()

    def change(self, **sections: Any) -> None:
        """Write other settings for the next SIGHUP."""
        self.settings = {**self.settings, **sections}
        write_settings(self.folder, self.settings)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """One request on a connection of its own."""
        return httpx.get(self.url + path, trust_env=False, timeout=10, **options)

    def workers(self) -> list[Json]:
        """All workers, from the administration's route."""
        workers: list[Json] = self.get("/v1/admin/workers").raise_for_status().json()["workers"]
        return workers

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return sum(map(float, found))

    def at_rest(self) -> bool:
        """Whether no request is in flight and no worker is busy or queued for."""
        return self.metric("roundhouse_in_flight") == 0 and not any(
            worker["busy"] or worker["queued"] for worker in self.workers()
        )


def write_settings(folder: Path, settings: Json) -> Path:
    file = folder / "settings.json"
    file.write_text(json.dumps(settings))
    return file


@contextmanager
def serving(
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    wrapped: tuple[str, ...] = (),
    module: str = "tests.faults.gateway",
    within: float = 30,
    **sections: Any,
) -> Iterator[Gateway]:
    """Run a gateway with these sections of settings, by the program ``module``, until the block ends.

    It has to listen ``within`` so many seconds.
    """
    settings = {"log": {"format": "json"}, "data_dir": str(folder / "data"), **sections}
    settings["server"] = {"port": 0, **settings.get("server", {})}
    file = write_settings(folder, settings)
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [*wrapped, sys.executable, "-m", module, str(file)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    gateway = Gateway(process, folder, settings)
    try:
        eventually(lambda: process.poll() is not None or gateway.log("listening"), within=within)
        assert process.poll() is None, f"it did not start:\n{gateway.log_file.read_text()}"
        gateway.url = gateway.log("listening")[0]["url"]
        yield gateway
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def eventually(condition: Callable[[], Any], *, within: float, every: float = 0.01) -> float:
    """Wait until a condition holds and return the seconds waited; fails the test after ``within`` seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, f"not within {within} s"
        time.sleep(every)
    return time.monotonic() - began


async def soon(condition: Callable[[], Any], *, within: float, every: float = 0.02) -> float:
    """Like :func:`eventually`, without blocking the event loop: the condition runs in a thread."""
    return await asyncio.to_thread(eventually, condition, within=within, every=every)


# ---- asking


@dataclass
class Told:
    """The answer to one request. ``ended`` is a time of the machine's monotonic clock."""

    status: int
    headers: Mapping[str, str]
    body: Json = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    done: bool = False
    seconds: float = 0.0
    ended: float = 0.0

    @property
    def text(self) -> str:
        if not self.events:
            return str(self.body["choices"][0]["message"]["content"])
        return "".join(
            choice["delta"].get("content") or "" for event in self.events for choice in event.get("choices", ())
        )

    @property
    def error(self) -> Json | None:
        """The error, of a refused request or of a stream that broke."""
        last = self.events[-1] if self.events else self.body
        error: Json | None = last.get("error")
        return error

    @property
    def whole(self) -> bool:
        """Whether it is a complete answer."""
        return self.status == 200 and self.error is None and (self.done or not self.events)


@asynccontextmanager
async def client(gateway: Gateway, **headers: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A session without a bound on connections or time."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        gateway.url, connector=aiohttp.TCPConnector(limit=0), timeout=timeout, headers=headers
    ) as session:
        yield session


def chat(model: str, *, stream: bool = False, routing: Json | None = None, **switches: Any) -> Json:
    """A chat request's body, with switches for the fake worker in its message."""
    message = {"role": "user", "content": json.dumps(switches) if switches else "Hello"}
    body = {"model": model, "messages": [message], "stream": stream}
    return body if routing is None else {**body, "routing": routing}


async def ask(
    session: aiohttp.ClientSession,
    body: Json,
    *,
    on_event: Callable[[int], None] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Told:
    """Send a chat and read its answer to the end, complete or not."""
    began = time.monotonic()
    async with session.post("/v1/chat/completions", json=body, headers=headers) as response:
        told = Told(response.status, response.headers)
        if response.content_type != "text/event-stream":
            told.body = await response.json()
        else:
            async for line in response.content:
                if line.startswith(b"data: [DONE]"):
                    told.done = True
                elif line.startswith(b"data: "):
                    told.events.append(json.loads(line.removeprefix(b"data: ")))
                    if on_event is not None:
                        on_event(len(told.events))
    told.ended = time.monotonic()
    told.seconds = told.ended - began
    return told


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of the values lie, by nearest rank."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
