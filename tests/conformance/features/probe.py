"""Sends every sample of a door to every provider, and sorts what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx

from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.conformance.features.samples import DOORS, Door, Sample
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.bedrock import FakeBedrock
from tests.fakes.google import FakeGoogle
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Call, FakeServer

KEY = "planted-secret-0123456789"
CAPABILITIES = (
    "chat", "tools", "parallel_tools", "json_schema", "reasoning", "code", "vision", "audio_input", "documents",
    "web_search",
)  # fmt: skip


class Treatment(StrEnum):
    """The treatment of a parameter on its way to a provider."""

    NATIVE = "native"
    """The provider gets it under its own name, as the caller wrote it."""
    MAPPED = "mapped"
    """The provider gets it in its own terms."""
    NAMED = "named"
    """It is left out, and ``x-roundhouse-dropped`` says so; ``strict`` refuses the request."""
    REFUSED = "refused"
    """The request gets a 4xx that says why."""
    GATEWAY = "gateway"
    """The gateway itself does it."""
    LOST = "lost"
    """Neither sent nor named: a fault."""
    BROKEN = "broken"
    """The answer is a 5xx: a fault."""


@dataclass(frozen=True)
class Provider:
    """A column of the table: the fake behind it, its endpoint's fields and the name of a model there.

    ``gateway`` tells what the gateway itself does for it, by parameter or sample.
    """

    name: str
    fake: Callable[[], FakeServer]
    protocol: str
    model: str
    suffix: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    gateway: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return re.sub(r"\W+", "-", self.name.lower()).strip("-")


def _bedrock() -> FakeBedrock:
    fake = FakeBedrock(key=KEY)
    fake.reply = '{"said": "in JSON, which Converse has no mode for"}'
    return fake


_CUT_BY_US = {"stop": "the gateway cuts the answer", "stop_sequences": "the gateway cuts the answer"}
PROVIDERS = (
    Provider("OpenAI", lambda: FakeOpenAI(key=KEY), "openai", "fake-chat", "/v1"),
    Provider(
        "OpenAI by Responses",
        lambda: FakeOpenAI(key=KEY),
        "openai",
        "fake-chat",
        "/v1",
        fields={"wire": "responses"},
        gateway=_CUT_BY_US,
    ),
    Provider("Anthropic", lambda: FakeAnthropic(key=KEY), "anthropic", "claude-sonnet-5"),
    Provider("Google", lambda: FakeGoogle(key=KEY), "google", "gemini-3-flash", "/v1beta"),
    Provider(
        "Bedrock (Nova)",
        _bedrock,
        "bedrock",
        "us.amazon.nova-pro-v1:0",
        fields={"region": "us-east-1"},
        gateway={
            "reasoning_effort: none": "it reasons only when asked to",
            "reasoning.effort: none": "it reasons only when asked to",
            "thinking: disabled": "it reasons only when asked to",
            "tool_choice: none": "the tools are not sent",
            "response_format: json_object": "the answer is checked",
            "text.format: json_object": "the answer is checked",
        },
    ),
    Provider(
        "Ollama",
        lambda: FakeOllama(key=KEY),
        "ollama",
        "fake-chat",
        gateway={"tool_choice: none": "the tools are not sent"},
    ),
)


@dataclass(frozen=True)
class Cell:
    """One sample at one provider; ``detail`` is the error's text, the names left out, or what was lost."""

    treatment: Treatment
    detail: str = ""
    body: Json | None = None


class Gateway:
    """The real app before the fakes of all providers."""

    def __init__(self, client: httpx.AsyncClient, fakes: Mapping[str, FakeServer]) -> None:
        self._client = client
        self._fakes = fakes
        self._bases: dict[tuple[str, str], Call] = {}

    async def ask(
        self, door: Door, provider: Provider, fields: Mapping[str, Any]
    ) -> tuple[httpx.Response, list[Call]]:
        fake = self._fakes[provider.name]
        before = len(fake.calls)
        body = {**door.base, "model": provider.id, **fields}
        answer = await self._client.post(door.path, json=body, headers=dict(door.headers))
        return answer, fake.calls[before:]

    async def base(self, name: str, provider: Provider) -> Call:
        """The call that the smallest request of a door becomes."""
        if (name, provider.name) not in self._bases:
            answer, calls = await self.ask(DOORS[name], provider, {})
            assert answer.status_code == 200, answer.text
            self._bases[name, provider.name] = calls[-1]
        return self._bases[name, provider.name]

    async def cell(self, name: str, sample: Sample, provider: Provider) -> Cell:
        door = DOORS[name]
        base = await self.base(name, provider)
        answer, calls = await self.ask(door, provider, sample.fields)
        if answer.status_code >= 500 or (answer.status_code == 200 and not calls):
            return Cell(Treatment.BROKEN, answer.text[:500])
        if answer.status_code >= 400:
            return Cell(Treatment.REFUSED, _message(answer), calls[-1].body if calls else None)
        return _sorted({**door.gateway, **provider.gateway}, sample, base, calls[-1], answer)


def _sorted(gateway: Mapping[str, str], sample: Sample, base: Call, call: Call, answer: httpx.Response) -> Cell:
    named = [unquote(name) for name in answer.headers.get("x-roundhouse-dropped", "").split(", ") if name]
    sent = json.dumps([call.body, call.query, call.headers.get("anthropic-beta"), call.headers.get("user-agent")])
    missing = [mark for mark in re.findall(r"mark-\w+", json.dumps(dict(sample.fields))) if mark not in sent]
    name = sample.parameter
    by_us = gateway.get(sample.name, gateway.get(name))
    if missing and not named and not by_us:
        return Cell(Treatment.LOST, f"{', '.join(sorted(set(missing)))} did not arrive", call.body)
    if call.body.get(name) is not None and call.body[name] == sample.fields.get(name):
        return Cell(Treatment.NATIVE, ", ".join(named), call.body)
    if named and (missing or call.body == base.body):
        return Cell(Treatment.NAMED, ", ".join(named), call.body)
    if call.body != base.body or call.headers.get("anthropic-beta") != base.headers.get("anthropic-beta"):
        return Cell(Treatment.MAPPED, ", ".join(named), call.body)
    if by_us:
        return Cell(Treatment.GATEWAY, by_us, call.body)
    return Cell(Treatment.LOST, "the request is the same without it", call.body)


def _message(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    return str(error["message"])


@asynccontextmanager
async def gateway(folder: Path, monkeypatch_env: Callable[[str, str], None]) -> AsyncIterator[Gateway]:
    """The app, with one row for each provider, named as the provider."""
    async with AsyncExitStack() as stack:
        fakes = {one.name: await stack.enter_async_context(one.fake()) for one in PROVIDERS}
        monkeypatch_env("ROUNDHOUSE_TEST_FEATURES_KEY", KEY)
        settings = Settings.model_validate(
            {
                "data_dir": folder,
                "log": {"access": False, "level": "error"},
                "endpoint": [
                    {
                        "id": one.id,
                        **one.fields,
                        "protocol": one.protocol,
                        "base_url": fakes[one.name].origin + one.suffix,
                        "key_env": ["ROUNDHOUSE_TEST_FEATURES_KEY"],
                    }
                    for one in PROVIDERS
                ],
                "model": [
                    {
                        "id": one.id,
                        "capabilities": list(CAPABILITIES),
                        "source": {
                            "kind": "upstream",
                            "endpoint": one.id,
                            "model": one.model,
                        },
                        "price": {"input": 1, "output": 2},
                    }
                    for one in PROVIDERS
                ],
            }
        )
        app = create_app(settings)
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app=app)
        client = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)
        )
        yield Gateway(client, fakes)
