"""Complete gateways over an empty store, a fake hub, and fake workers under the names of real engines."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.workers.engines.registry import EngineInfo, Engines, builtin_engines
from catalog.store.hub import Hub
from catalog.store.store import Store
from catalog.types import Json
from server.app import create_app
from server.assembly import open_runtime
from server.edge.services import Services
from server.peers import answer_peer
from server.processes.reload import apply_settings
from server.runtime import Runtime
from server.settings import Settings
from tests.backends.workers.conftest import fake_engines
from tests.fakes.gguf import chat_model
from tests.fakes.hub import FakeHub, Repository, serve

REPOSITORY = "tiny/Tiny-GGUF"
FILE = "Tiny-Q4_K_M.gguf"
ADDRESS = f"hub:{REPOSITORY}:Q4_K_M"
TINY: Json = {"id": "tiny", "source": ADDRESS, "engine": "llamacpp", "capabilities": ["chat", "completion"]}
"""A row of the fake hub's model, which is not pulled."""


def engines() -> Engines:
    """The fake engines, and one that has llama.cpp's name and options and runs the fake."""
    fakes = fake_engines()
    fake = fakes["fake"]
    real = EngineInfo(
        "llamacpp",
        "none",
        (),
        fake.command,
        fake.devices,
        fake.slots,
        context=True,
        options="backends.workers.engines.llamacpp:LlamaCppOptions",
        serves=builtin_engines()["llamacpp"].serves,
    )
    return Engines(*fakes.values(), real)


@dataclass
class Shop:
    """A complete gateway."""

    client: httpx.AsyncClient
    services: Services

    @property
    def runtime(self) -> Runtime:
        assert self.services.runtime is not None
        return self.services.runtime

    @property
    def store(self) -> Store:
        assert self.runtime.library is not None
        return self.runtime.library._store

    async def reload(self, **changes: Any) -> None:
        """Apply changed settings, as SIGHUP does."""
        before = self.services.settings.model_dump(exclude_unset=True)
        await apply_settings(self.services, Settings.model_validate({**before, **changes}))

    async def listed(self, query: str = "all=true") -> set[str]:
        """The ids of ``/v1/models``."""
        return {row["id"] for row in (await self.client.get(f"/v1/models?{query}")).json()["data"]}

    async def fetching(self) -> Json:
        """The newest pull, once it has fetched some bytes."""
        async with asyncio.timeout(20):
            while True:
                pulls = (await self.client.get("/v1/models/pulls")).json()["data"]
                if pulls and pulls[0]["completed_bytes"]:
                    return dict(pulls[0])
                await asyncio.sleep(0.01)

    async def ended(self, pull: str) -> Json:
        """A pull once it has ended."""
        async with asyncio.timeout(20):
            while True:
                told: Json = (await self.client.get(f"/v1/models/pulls/{pull}")).json()
                if told["ended_at"] is not None:
                    return told
                await asyncio.sleep(0.01)


OpenShop = Callable[..., AbstractAsyncContextManager[Shop]]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    files = {FILE: chat_model(padding=3_000_000), "Tiny-Q8_0.gguf": chat_model(padding=9)}
    with serve(FakeHub({REPOSITORY: Repository(files)})) as running:
        yield running


@pytest.fixture
def open_shop(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenShop:
    """``async with open_shop(models={...}) as shop``: settings by name. All have one data folder, so one state.

    Each holds its work under a name of its own, as gateways in processes of their own do.
    """
    numbers = itertools.count()
    monkeypatch.setattr("server.storage.runner.process_name", lambda: f"gateway {next(numbers)}")
    monkeypatch.setattr("server.assembly.Store", lambda root: Store(root, hub=Hub(hub.address)))

    @asynccontextmanager
    async def opened(**overrides: Any) -> AsyncIterator[Shop]:
        settings = Settings.model_validate({"data_dir": tmp_path / "data", "log": {"access": False}, **overrides})
        app = create_app(settings, open_runtime=partial(open_runtime, engines=engines()))
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            key = overrides.get("admin_keys")
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost", timeout=30, headers=headers
            ) as client:
                yield Shop(client, app.state.services)

    return opened


@pytest.fixture
async def shop(open_shop: OpenShop) -> AsyncIterator[Shop]:
    """A gateway with default settings: only this machine reaches it, and it has no keys."""
    async with open_shop() as running:
        yield running


class PeerOf:
    """The other gateway, as its peers ask it."""

    def __init__(self, other: Shop) -> None:
        self.other = other

    async def ask(self, question: Json) -> Any:
        return await answer_peer(self.other.runtime, question)

    async def ask_all(self, question: Json) -> list[Any]:
        answer = await self.ask(question)
        return [] if answer is None else [answer]
