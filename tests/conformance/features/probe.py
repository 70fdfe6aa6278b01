"""Sends every sample of a door to every provider, and sorts what came of it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx

from backends.base import Upstream
from backends.queueing import Need
from backends.registry import WORKER
from catalog.model import Model
from catalog.types import Json
from server.app import create_app
from server.assembly import open_runtime
from server.settings import Settings
from tests.conformance.features.doors import Sample
from tests.conformance.features.samples import DOORS
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.bedrock import FakeBedrock
from tests.fakes.elevenlabs import FakeElevenLabs
from tests.fakes.gguf import gguf_bytes
from tests.fakes.google import FakeGoogle
from tests.fakes.llama_server import FakeLlamaServer
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_media import png
from tests.fakes.server import Call, FakeServer
from tests.server.fakes import FakePool

KEY = "planted-secret-0123456789"
CAPABILITIES = (
    "chat", "tools", "parallel_tools", "json_schema", "reasoning", "code", "vision", "audio_input", "documents",
    "web_search",
)  # fmt: skip


CONVERSATIONS = frozenset({"Chat", "Responses", "Messages", "Ollama's chat"})
CAPABILITY_OF: Mapping[str, str] = {
    "Embeddings": "embed",
    "Completions": "completion",
    "Rerank": "rerank",
    "Classify": "classify",
    "Moderations": "moderate",
    "Images": "image",
    "Image edits": "image_edit",
    "Speech": "speak",
    "Transcriptions": "transcribe",
}
"""The capabilities of the doors besides those of conversations."""


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

    ``gateway`` tells what the gateway itself does for it, by parameter or sample. ``others`` are its models
    for the other doors, and ``engine`` is that of a worker of this machine.
    """

    name: str
    fake: Callable[[], FakeServer]
    protocol: str
    model: str
    suffix: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    gateway: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    engine: str | None = None

    def serves(self, name: str) -> bool:
        """Whether it is a column of a door."""
        return name in self.others or (name in CONVERSATIONS and bool(self.model))

    def row(self, name: str) -> str:
        """The id of the row that a door asks for."""
        return f"{self.id}-{CAPABILITY_OF[name]}" if name in self.others else self.id

    @property
    def id(self) -> str:
        return re.sub(r"\W+", "-", self.name.lower()).strip("-")


def _bedrock() -> FakeBedrock:
    fake = FakeBedrock(key=KEY)
    fake.reply = '{"said": "in JSON, which Converse has no mode for"}'
    return fake


def _google() -> FakeGoogle:
    fake = FakeGoogle(key=KEY)
    fake.pictures, fake.draws_unasked = (base64.b64encode(png()).decode(),), False
    return fake


def _worker() -> FakeServer:
    fake = FakeLlamaServer(uds=Path(tempfile.mkdtemp(prefix="rh-")) / "w.sock")
    fake.chances = lambda text: dict.fromkeys("abcdefghijklmnopqrstuvwxyz-", 1 / 27)
    fake.context = 4096
    fake.reply = '{"said": "in JSON"}'
    return fake


_AT_A_WORKER = {
    "user": "no worker keeps it",
    "echo": "the gateway repeats the prompt",
    "input: several texts": "one question for each text and category",
    "input: text in parts": "one question for each category",
    "input: objects": "one question for each text",
}
_CUT_BY_US = {
    "options.stop": "the gateway cuts the answer",
    "stop": "the gateway cuts the answer",
    "stop_sequences": "the gateway cuts the answer",
}
PROVIDERS = (
    Provider(
        "OpenAI",
        lambda: FakeOpenAI(key=KEY),
        "openai",
        "fake-chat",
        "/v1",
        others={
            "Embeddings": "fake-embed",
            "Completions": "fake-chat",
            "Rerank": "fake-rerank",
            "Classify": "fake-classify",
            "Moderations": "fake-moderation",
            "Images": "gpt-image-1",
            "Image edits": "gpt-image-1",
            "Speech": "tts-1",
            "Transcriptions": "whisper-1",
        },
    ),
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
    Provider(
        "Google",
        _google,
        "google",
        "gemini-3-flash",
        "/v1beta",
        gateway={"background": "it draws on an opaque ground", "n": "one call for each picture"},
        others={
            "Embeddings": "gemini-embedding-001",
            "Images": "gemini-3-pro-image",
            "Image edits": "gemini-3-pro-image",
        },
    ),
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
        others={"Embeddings": "fake-embed"},
    ),
    Provider(
        "ElevenLabs",
        lambda: FakeElevenLabs(key=KEY),
        "elevenlabs",
        "",
        gateway={
            "response_format: mp3": "it makes that by default",
            "response_format: verbose_json": "the gateway writes it",
            "timestamp_granularities": "it always tells the times of words",
        },
        others={"Speech": "eleven_flash_v2_5", "Transcriptions": "scribe_v2"},
    ),
    Provider(
        "llama.cpp",
        _worker,
        "worker",
        "",
        gateway=_AT_A_WORKER,
        others={
            "Embeddings": "local",
            "Completions": "local",
            "Rerank": "local",
            "Classify": "local",
            "Moderations": "local",
        },
        engine="llamacpp",
    ),
)


@dataclass(frozen=True)
class Cell:
    """One sample at one provider; ``detail`` is the error's text, the names left out, or what was lost."""

    treatment: Treatment
    detail: str = ""
    body: Json | None = None


_QUESTIONS = frozenset({"/props", "/tokenize", "/detokenize", "/apply-template", "/v1/models"})
"""Paths of a worker that are asked on the way to an answer."""


class _Workers(FakePool):
    """Workers that are one fake of llama-server."""

    def __init__(self, uds: Path) -> None:
        super().__init__()
        self._uds = uds

    @asynccontextmanager
    async def lease(self, model: Model, need: Need) -> AsyncIterator[Upstream]:
        yield Upstream(
            f"worker/{model.id}",
            WORKER,
            "http://worker/v1",
            "local",
            uds=str(self._uds),
            api_key="worker-key",
            engine=model.engine,
        )


class Gateway:
    """The real app before the fakes of all providers."""

    def __init__(self, client: httpx.AsyncClient, fakes: Mapping[str, FakeServer]) -> None:
        self._client = client
        self._fakes = fakes
        self._bases: dict[tuple[str, str], tuple[Call, frozenset[str]]] = {}

    async def ask(
        self, name: str, provider: Provider, fields: Mapping[str, Any]
    ) -> tuple[httpx.Response, list[Call]]:
        door, fake = DOORS[name], self._fakes[provider.name]
        before = len(fake.calls)
        body = {**door.base, "model": provider.row(name), **fields}
        if door.file is None:
            answer = await self._client.post(door.path, json=body, headers=dict(door.headers))
        else:
            answer = await self._client.post(door.path, data=body, files={door.field: ("a", door.file)})
        if body.get("background") is True and answer.status_code == 200:
            await self._done(answer.json()["id"])
        return answer, [call for call in fake.calls[before:] if call.path not in _QUESTIONS]

    async def _done(self, response: str) -> None:
        """Wait for the end of a response that is made in the background."""
        while True:
            made = (await self._client.get(f"/v1/responses/{response}")).json()
            if made["status"] not in ("queued", "in_progress"):
                assert made["status"] == "completed", made
                return
            await asyncio.sleep(0.01)

    async def _stored(self, name: str, provider: Provider, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of a sample; what they refer to has been made."""
        if "previous_response_id" in fields:
            answer, _ = await self.ask(name, provider, {"input": "mark-before", "store": True})
            return {**fields, "previous_response_id": answer.json()["id"]}
        if "conversation" in fields:
            item = {"type": "message", "role": "user", "content": "mark-before"}
            made = await self._client.post("/v1/conversations", json={"items": [item]})
            return {**fields, "conversation": made.json()["id"]}
        return fields

    async def base(self, name: str, provider: Provider) -> tuple[Call, frozenset[str]]:
        """The call that the smallest request of a door becomes, and what it leaves out."""
        if (name, provider.name) not in self._bases:
            answer, calls = await self.ask(name, provider, {})
            assert answer.status_code == 200, answer.text
            self._bases[name, provider.name] = calls[-1], frozenset(_left_out(answer))
        return self._bases[name, provider.name]

    async def cell(self, name: str, sample: Sample, provider: Provider) -> Cell:
        door = DOORS[name]
        base = await self.base(name, provider)
        answer, calls = await self.ask(name, provider, await self._stored(name, provider, sample.fields))
        if answer.status_code >= 500 or (answer.status_code == 200 and not calls):
            return Cell(Treatment.BROKEN, answer.text[:500])
        if answer.status_code >= 400:
            return Cell(Treatment.REFUSED, _message(answer), calls[-1].body if calls else None)
        return _sorted({**door.gateway, **door.own, **provider.gateway}, sample, base, calls, answer)


def _sorted(
    gateway: Mapping[str, str],
    sample: Sample,
    base: tuple[Call, frozenset[str]],
    calls: list[Call],
    answer: httpx.Response,
) -> Cell:
    call = calls[-1]
    before, usual = base
    named = [name for name in _left_out(answer) if name not in usual]
    sent = json.dumps(
        [[one.body, one.query, one.headers.get("anthropic-beta"), one.headers.get("user-agent")] for one in calls]
    )
    missing = [mark for mark in re.findall(r"mark-\w+", json.dumps(dict(sample.fields))) if mark not in sent]
    name = sample.parameter
    by_us = gateway.get(sample.name, gateway.get(name))
    if missing and not named and not by_us:
        return Cell(Treatment.LOST, f"{', '.join(sorted(set(missing)))} did not arrive", call.body)
    if call.body.get(name) is not None and call.body[name] == sample.fields.get(name):
        return Cell(Treatment.NATIVE, ", ".join(named), call.body)
    told = [(one.path, one.body, one.query, one.headers.get("anthropic-beta")) for one in (call, before)]
    if named and (missing or told[0] == told[1]):
        return Cell(Treatment.NAMED, ", ".join(named), call.body)
    if told[0] != told[1]:
        return Cell(Treatment.MAPPED, ", ".join(named), call.body)
    if by_us:
        return Cell(Treatment.GATEWAY, by_us, call.body)
    return Cell(Treatment.LOST, "the request is the same without it", call.body)


def _left_out(answer: httpx.Response) -> list[str]:
    return [unquote(name) for name in answer.headers.get("x-roundhouse-dropped", "").split(", ") if name]


def _message(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    return error if isinstance(error, str) else str(error["message"])


def _rows(provider: Provider, file: Path) -> list[Json]:
    """The rows of a provider: one for conversations, and one for each other door."""
    models = {provider.id: (provider.model, list(CAPABILITIES))} if provider.model else {}
    for name, model in provider.others.items():
        kinds = [CAPABILITY_OF[name], *(["vision"] if name == "Moderations" and not provider.engine else [])]
        kinds += ["image"] if name == "Image edits" else []
        models[provider.row(name)] = (model, kinds)
    rows: list[Json] = []
    for name, (model, kinds) in models.items():
        row: Json = {"id": name, "capabilities": kinds, "price": {"input": 1, "output": 2}}
        if provider.engine is None:
            row["source"] = {"kind": "upstream", "endpoint": provider.id, "model": model}
        else:
            row |= {"source": {"kind": "path", "path": str(file)}, "engine": provider.engine}
        rows.append(row)
    return rows


@asynccontextmanager
async def gateway(folder: Path, monkeypatch_env: Callable[[str, str], None]) -> AsyncIterator[Gateway]:
    """The app, with one row for each provider, named as the provider."""
    async with AsyncExitStack() as stack:
        fakes = {one.name: await stack.enter_async_context(one.fake()) for one in PROVIDERS}
        monkeypatch_env("ROUNDHOUSE_TEST_FEATURES_KEY", KEY)
        remote = [one for one in PROVIDERS if one.engine is None]
        file = folder / "model.gguf"
        file.write_bytes(gguf_bytes({"general.architecture": "llama"}))
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
                    for one in remote
                ],
                "model": [row for one in PROVIDERS for row in _rows(one, file)],
            }
        )
        workers = next(fakes[one.name] for one in PROVIDERS if one.engine is not None)
        assert workers.uds is not None
        pool = _Workers(workers.uds)
        app = create_app(settings, open_runtime=lambda told, metrics: open_runtime(told, metrics, pool=pool))
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app=app)
        client = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)
        )
        yield Gateway(client, fakes)
