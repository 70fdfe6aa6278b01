"""Batches are looked for and told about at once in tests. A site has endpoints with batch APIs of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from catalog.types import Json
from server.app import create_app
from server.assembly import open_runtime
from server.batches import journal, offloading, work
from server.settings import Settings
from server.storage import runner
from tests.backends.workers.conftest import fake_engines
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI
from tests.server.batches.site import PRICE, Open, Site


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LOOK", 0.02)
    monkeypatch.setattr(runner, "REST", 0.02)
    monkeypatch.setattr(journal, "GROUP", 0.0)
    monkeypatch.setattr(work, "TELL", 0.0)
    monkeypatch.setattr(work, "REST", 0.02)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offloading, "FIRST_LOOK", 0.01)
    monkeypatch.setattr(offloading, "LAST_LOOK", 0.02)
    monkeypatch.setattr(offloading, "ACCOUNT_WAIT", 0.02)


@pytest.fixture
async def openai() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI(key="sk-fake") as running:
        yield running


@pytest.fixture
async def anthropic() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, openai: FakeOpenAI, anthropic: FakeAnthropic, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setenv("FAKE_OPENAI_KEY", "sk-fake")
    monkeypatch.setenv("FAKE_ANTHROPIC_KEY", anthropic.key)

    def row(name: str, endpoint: str, model: str, capability: str) -> Json:
        source = {"kind": "upstream", "endpoint": endpoint, "model": model}
        return {"id": name, "capabilities": [capability], "source": source, "price": PRICE}

    @asynccontextmanager
    async def opened(*, batches: bool = True, **overrides: Any) -> AsyncIterator[Site]:
        far = {"id": "far", "base_url": openai.base_url, "key_env": ["FAKE_OPENAI_KEY"], "batches": batches}
        messages = {"id": "claudes", "protocol": "anthropic", "base_url": anthropic.origin, "batches": batches}
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path / "data",
                "endpoint": [far, messages | {"key_env": ["FAKE_ANTHROPIC_KEY"]}],
                "model": [
                    row("gpt", "far", "fake-chat", "chat"),
                    row("reasoner", "far", "fake-chat", "chat") | {"wire": "responses"},
                    row("vector", "far", "fake-embed", "embed"),
                    row("claude", "claudes", "fake-claude", "chat"),
                ],
                **overrides,
            }
        )
        app = create_app(settings, open_runtime=partial(open_runtime, engines=fake_engines()))
        async with AsyncExitStack() as held:
            await held.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app=app)
            client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)
            await held.enter_async_context(client)
            yield Site(client, app.state.services, settings)

    return opened
