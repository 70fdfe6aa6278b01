"""A complete gateway in the test's process, with a fake provider and fake workers in real processes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI

from routing.clock import Clock
from server.app import create_app
from server.assembly import open_runtime
from server.edge.errors import OLLAMA_PATHS
from server.edge.services import Services
from server.observability.logging import configure_logging
from server.observability.settings import LogSettings
from server.processes.run import GatewayServer, uvicorn_config
from server.runtime import Runtime
from server.settings import Settings
from tests.backends.workers.conftest import FAKE, fake_engines
from tests.fakes.openai import FakeOpenAI

PROVIDER_KEY_ENV = "ROUNDHOUSE_TEST_PROVIDER_KEY"
PROVIDER_KEY = "sk-planted-provider-key-0123456789abcdef"
CHAT = {"model": "near", "messages": [{"role": "user", "content": "Hello"}]}


def rows(provider: FakeOpenAI) -> dict[str, Any]:
    """``near`` runs in a fake worker; ``far`` and ``farther`` chat, ``vector`` embeds at the fake provider."""

    def at_provider(name: str, *capabilities: str) -> dict[str, Any]:
        source = {"kind": "upstream", "endpoint": "cloud", "model": name}
        price = {"input": 1.0, "output": 2.0}
        return {"provider": "cloud", "capabilities": list(capabilities), "source": source, "price": price}

    near = {
        "id": "near",
        "capabilities": ["chat", "completion", "tools", "json_schema", "vision"],
        "source": {"kind": "path", "path": str(FAKE)},
        "engine": "fake",
        "size": {"memory": 50 * 2**20},
    }
    endpoint = {"id": "cloud", "base_url": provider.base_url, "key_env": [PROVIDER_KEY_ENV]}
    return {
        "model": (
            near,
            {"id": "far", **at_provider("fake-chat", "chat", "tools", "json_schema", "vision")},
            {"id": "farther", **at_provider("fake-chat", "chat")},
            {"id": "vector", **at_provider("fake-embed", "embed")},
            {"id": "ranker", **at_provider("fake-rerank", "rerank")},
            {"id": "judge", **at_provider("fake-classify", "classify")},
            {"id": "warden", **at_provider("fake-moderation", "moderate", "vision")},
            {"id": "ear", **at_provider("whisper-1", "transcribe", "translate")},
            {"id": "mouth", **at_provider("tts-1", "speak"), "voices": ["alloy"]},
            {"id": "brush", **at_provider("gpt-image-1", "image")},
        ),
        "endpoint": (endpoint,),
    }


@dataclass
class Site:
    """A running gateway; ``url`` is the address of its listener."""

    app: FastAPI
    server: GatewayServer
    client: httpx.AsyncClient
    provider: FakeOpenAI
    settings: Settings

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    @property
    def runtime(self) -> Runtime:
        runtime = self.services.runtime
        assert runtime is not None
        return runtime


OpenSite = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture(autouse=True)
def logs() -> Iterator[io.StringIO]:
    """Log output as JSON lines, at debug level."""
    stream = io.StringIO()
    configure_logging(LogSettings(format="json", level="debug"), stream)
    yield stream
    structlog.reset_defaults()


@pytest.fixture
async def provider() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI(key=PROVIDER_KEY) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, provider: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> OpenSite:
    """``async with site(api_keys=...) as s``: settings by name; ``clock`` takes the place of the machine's."""
    monkeypatch.setenv(PROVIDER_KEY_ENV, PROVIDER_KEY)

    @asynccontextmanager
    async def opened(
        *, server: Mapping[str, Any] | None = None, clock: Clock | None = None, **overrides: Any
    ) -> AsyncIterator[Site]:
        settings = Settings.model_validate(
            {
                **rows(provider),
                "data_dir": tmp_path / "data",
                "server": {"port": 0, **(server or {})},
                "log": {"level": "debug"},
                "workers": {"stop_grace": 2.0, "backoff": 0.01},
                **overrides,
            }
        )
        app = create_app(settings, open_runtime=partial(open_runtime, engines=fake_engines(), clock=clock))
        async with app.router.lifespan_context(app):
            running = GatewayServer(uvicorn_config(app, settings))
            task = asyncio.create_task(running.serve())
            try:
                async with asyncio.timeout(10):
                    await running.listening.wait()
                async with httpx.AsyncClient(base_url=running.url, timeout=30, trust_env=False) as client:
                    yield Site(app, running, client, provider, settings)
            finally:
                running.should_exit = True
                await task

    return opened


def assert_error(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Assert an error of this status in OpenAI's shape, or Ollama's on its paths; return the error object."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    if response.request.method == "HEAD":
        return {}
    body = response.json()
    beside = {"id", "message"} if "rerank" in response.request.url.path else set()  # Cohere's clients read these
    assert set(body) == {"error"} | beside
    if response.request.url.path.startswith(OLLAMA_PATHS):
        assert isinstance(body["error"], str)
        assert body["error"]
        return {"message": body["error"]}
    error: dict[str, Any] = body["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert code is None or error["code"] == code, error
    return error
