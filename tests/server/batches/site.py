"""A running gateway over fakes of providers, for tests of their batch APIs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import orjson

from catalog.types import Json
from routing.clock import SystemClock
from server.background import works
from server.edge.services import Services
from server.runtime import Runtime
from server.settings import Settings
from server.storage.runner import Runner
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI

RESPONSES = "/v1/responses"
CHAT, EMBED, MESSAGES = "/v1/chat/completions", "/v1/embeddings", "/v1/messages"
PRICE = {"input": 10.0, "output": 20.0}
ALONE = {"text", "id", "created", "created_at", "system_fingerprint"}


class Site:
    """A running gateway in this process, over fakes of both providers."""

    def __init__(self, client: httpx.AsyncClient, services: Services, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        assert services.runtime is not None
        self.runtime: Runtime = services.runtime

    async def send(self, *lines: Json, endpoint: str = CHAT, **headers: str) -> Json:
        data = b"".join(orjson.dumps(line) + b"\n" for line in lines)
        file = await self.client.post(
            "/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": "batch"}, headers=headers
        )
        body = {"input_file_id": file.json()["id"], "endpoint": endpoint, "completion_window": "24h"}
        made = await self.client.post("/v1/batches", json=body, headers=headers)
        assert made.status_code == 200, made.text
        told: Json = made.json()
        return told

    async def until(self, batch: Json, *statuses: str, **headers: str) -> Json:
        async with asyncio.timeout(20):
            while True:
                told: Json = (await self.client.get(f"/v1/batches/{batch['id']}", headers=headers)).json()
                if told["status"] in statuses:
                    return told
                await asyncio.sleep(0.01)

    async def content(self, file: str | None, **headers: str) -> dict[str, Json]:
        if file is None:
            return {}
        told = await self.client.get(f"/v1/files/{file}/content", headers=headers)
        rows = [orjson.loads(line) for line in told.content.splitlines()]
        assert len({row["custom_id"] for row in rows}) == len(rows), "a line has two results"
        return {row["custom_id"]: row for row in rows}

    async def offloaded(self, batch: Json, kind: str = "batch") -> list[Json]:
        record = await self.runtime.storage.records.get(kind, batch["id"])
        assert record is not None
        told: list[Json] = record.body["internal"].get("offloaded") or []
        return told

    async def begun(self, batch: Json) -> None:
        """Wait until the record knows of a provider's batch."""
        async with asyncio.timeout(20):
            while not any("id" in told for told in await self.offloaded(batch)):
                await asyncio.sleep(0.01)

    async def die(self) -> None:
        assert self.runtime.runner is not None
        await self.runtime.runner.stop()

    def revive(self) -> None:
        self.runtime.runner = Runner(
            self.runtime.storage.records, SystemClock(), works(self.runtime, self.settings)
        )
        self.runtime.runner.start()

    async def spent(self) -> dict[str, tuple[int, float]]:
        """Calls and dollars by model."""
        rows = await self.runtime.spend.usage("2000-01-01", "2999-01-01")
        told: dict[str, tuple[int, float]] = {}
        for row in rows:
            calls, cost = told.get(row.model, (0, 0.0))
            told[row.model] = calls + row.calls, cost + row.cost / 1e9
        return told


def line(name: str, model: str = "gpt", url: str = CHAT, **body: Any) -> Json:
    if url == CHAT:
        body = {"messages": [{"role": "user", "content": f"Say {name}"}], "max_tokens": 50, **body}
    return {"custom_id": name, "method": "POST", "url": url, "body": {"model": model, **body}}


def paths(fake: FakeOpenAI | FakeAnthropic, method: str = "POST") -> list[str]:
    return [call.path for call in fake.calls if call.method == method]


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(each) for name, each in value.items() if name not in ALONE}
    return [timeless(each) for each in value] if isinstance(value, list) else value


Open = Callable[..., AbstractAsyncContextManager[Site]]
