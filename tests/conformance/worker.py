"""A real worker process for tests, started as the supervisor does, with a client for its Unix socket."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from backends.workers.process import scrubbed
from backends.workers.spec import WorkerSpec
from catalog.catalog import Catalog
from catalog.model import LibrarySource, Model, PathSource
from tests.conformance.optional import engines, models
from tests.conformance.starter_store import starter_store

KEY = "key-of-this-worker"
THREADS = 2
START_SECONDS = 400.0


class DidNotStart(Exception):
    """The worker did not start; the message is the reason from its ready pipe."""


@dataclass(frozen=True)
class Worker:
    """A ready worker."""

    spec: WorkerSpec
    process: subprocess.Popen[bytes]
    log: Path

    def client(self, key: str = KEY) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=self.spec.socket, verify=False),  # no TLS here
            base_url="http://worker",
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
        )

    async def stats(self) -> dict[str, int]:
        async with self.client() as client:
            found: dict[str, int] = (await client.get("/stats")).json()
            return found

    async def active(self) -> int:
        """Return the number of requests that the engine works on, by its own count."""
        async with self.client() as client:
            if self.spec.engine == "llamacpp":
                slots = (await client.get("/slots")).json()
                return sum(slot["is_processing"] for slot in slots)
            return int((await client.get("/stats")).json()["active"])

    async def until_active(self, wanted: int, *, within: float) -> float:
        """Wait until the engine works on ``wanted`` requests; return the seconds. Raises TimeoutError."""
        began = time.monotonic()
        async with asyncio.timeout(within):
            while await self.active() != wanted:
                await asyncio.sleep(0.005)
        return time.monotonic() - began


def starter(model_id: str) -> tuple[Model, Path | None]:
    """Return the row and path of a starter model, or of a model of :mod:`tests.conformance.optional`.

    Raises ModelUnavailable if it is not pulled, so that tests fail instead of being skipped.
    """
    own = models().get(model_id)
    if own is not None and isinstance(own.source, PathSource):
        return own, Path(own.source.path)
    row = Catalog.builtin().resolve(model_id)
    inside = isinstance(row.source, LibrarySource) and row.source.uses is None
    path = None if inside else starter_store().path(row)
    return row, path


@contextmanager
def worker_of(model_id: str, *, slots: int | None = None, **options: Any) -> Iterator[Worker]:
    """Run a worker with a starter model."""
    row, path = starter(model_id)
    assert row.engine is not None
    with worker(row.engine, path, row=row, slots=slots, **options) as running:
        yield running


@contextmanager
def worker(
    engine: str, path: Path | None, *, row: Model | None = None, slots: int | None = None, **options: Any
) -> Iterator[Worker]:
    """Run a worker process until the block ends. Raises DidNotStart with its reason."""
    folder = Path(tempfile.mkdtemp(prefix="rh-"))
    spec = WorkerSpec(
        engine=engine,
        model_id=row.id if row else "model-under-test",
        path=None if path is None else str(path),
        options={**(row.options if row else {}), **options},
        socket=str(folder / "w.sock"),
        api_key=KEY,
        threads=THREADS,
        slots=slots or engines()[engine].slots(THREADS),
        context=2048 if engines()[engine].context else None,
        capabilities=row.capabilities if row else frozenset(),
    )
    reading, writing = os.pipe()
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*engines()[engine].command, "--ready-fd", str(writing)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            env=scrubbed(os.environ),
            pass_fds=(writing,),
            start_new_session=True,
        )
    os.close(writing)
    assert process.stdin is not None
    try:
        process.stdin.write(spec.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        told = _first_line(reading)
        if told != "ready":
            raise DidNotStart(told or log.read_text(errors="replace")[-2000:])
        yield Worker(spec, process, log)
    finally:
        os.close(reading)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdin.close()
        shutil.rmtree(folder)


def _first_line(descriptor: int) -> str:
    ready, _, _ = select.select([descriptor], [], [], START_SECONDS)
    return os.read(descriptor, 4096).decode().strip() if ready else f"not ready after {START_SECONDS} s"
