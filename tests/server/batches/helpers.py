"""Calls of the batch endpoints, for tests."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from catalog.types import Json
from server.batches.work import BatchWork
from tests.server.api.test_chat import BODY
from tests.server.conftest import Gateway

CHAT = "/v1/chat/completions"


def chat_line(name: str, **body: Any) -> Json:
    return {"custom_id": name, "method": "POST", "url": CHAT, "body": {**BODY, **body}}


def jsonl(*lines: Json) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


async def send(gateway: Gateway, content: bytes, endpoint: str = CHAT, **more: Any) -> Json:
    """A new batch of a new file."""
    file = await gateway.client.post("/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"})
    assert file.status_code == 200, file.text
    body = {"input_file_id": file.json()["id"], "endpoint": endpoint, "completion_window": "24h", **more}
    answer = await gateway.client.post("/v1/batches", json=body)
    assert answer.status_code == 200, answer.text
    made: Json = answer.json()
    return made


async def until(gateway: Gateway, batch: Json, *statuses: str) -> Json:
    """The batch once it has one of these statuses."""
    async with asyncio.timeout(20):
        while True:
            told: Json = (await gateway.client.get(f"/v1/batches/{batch['id']}")).json()
            if told["status"] in statuses:
                return told
            await asyncio.sleep(0.01)


async def content(gateway: Gateway, file_id: str | None) -> list[Json]:
    """The lines of a file of results; none without a file."""
    if file_id is None:
        return []
    answer = await gateway.client.get(f"/v1/files/{file_id}/content")
    assert answer.status_code == 200, answer.text
    return [orjson.loads(line) for line in answer.content.splitlines()]


def works_of(gateway: Gateway) -> dict[str, BatchWork]:
    runtime = gateway.services.runtime
    assert runtime is not None
    assert runtime.runner is not None
    return {kind: work for kind, work in runtime.runner._works.items() if isinstance(work, BatchWork)}
