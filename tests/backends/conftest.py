"""A fake of llama-server on a Unix socket, and the backend of local workers in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.base import Upstream
from backends.constraints.checker import Checker
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend
from tests.fakes.llama_server import FakeLlamaServer


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeLlamaServer]:
    async with FakeLlamaServer(uds=tmp_path / "w.sock") as server:
        yield server


@pytest.fixture
async def backend() -> AsyncIterator[LocalWorkerBackend]:
    async with HttpClient() as http:
        yield LocalWorkerBackend(http)


@pytest.fixture
async def checker() -> AsyncIterator[Checker]:
    made = Checker()
    yield made
    await made.aclose()


@pytest.fixture
def upstream(fake: FakeLlamaServer) -> Upstream:
    return Upstream(
        "w", "worker", "http://worker/v1", "local", uds=str(fake.uds), api_key="worker-key", engine="llamacpp"
    )
