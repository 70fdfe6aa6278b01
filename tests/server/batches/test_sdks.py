"""Files, uploads and batches by the official SDKs of OpenAI and Anthropic."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.server.api.stored.test_files import names
from tests.server.batches.helpers import CHAT, chat_line, jsonl
from tests.server.batches.test_message_batches import asked
from tests.server.conftest import Start

LINES = jsonl(*(chat_line(f"r{n}") for n in range(3)))


async def test_openais_sdk_keeps_files_and_uploads(serve: Start) -> None:
    async with serve() as gateway, AsyncOpenAI(base_url=f"{gateway.client.base_url}/v1", api_key="x") as client:
        file = await client.files.create(
            file=("a.jsonl", io.BytesIO(LINES)),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert file.expires_at == file.created_at + 3600
        assert (await client.files.retrieve(file.id)).id == file.id
        assert (await client.files.content(file.id)).content == LINES
        data = bytes(range(256)) * 40
        upload = await client.uploads.upload_file_chunked(
            file=data,
            filename="b.bin",
            bytes=len(data),
            mime_type="text/plain",
            purpose="user_data",
            part_size=3000,
        )
        assert upload.status == "completed"
        assert upload.file is not None
        assert (await client.files.content(upload.file.id)).content == data
        assert [each.id async for each in client.files.list(limit=1)] == [upload.file.id, file.id]
        for name in (file.id, upload.file.id):
            assert (await client.files.delete(name)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(file.id)
        assert gateway.services.runtime is not None
        assert names(gateway.services.runtime.files.folder) == []


async def test_openais_sdk_runs_a_batch(serve: Start) -> None:
    async with serve() as gateway, AsyncOpenAI(base_url=f"{gateway.client.base_url}/v1", api_key="x") as client:
        file = await client.files.create(file=("a.jsonl", LINES), purpose="batch")
        endpoint: Any = CHAT
        batch = await client.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"a": "b"}
        )
        async with asyncio.timeout(20):
            while batch.status != "completed":
                await asyncio.sleep(0.01)
                batch = await client.batches.retrieve(batch.id)
        assert batch.request_counts is not None
        assert batch.request_counts.completed == 3
        assert batch.usage is not None
        assert batch.output_file_id is not None
        text = (await client.files.content(batch.output_file_id)).text
        assert len(text.splitlines()) == 3
        assert [each.id async for each in client.batches.list()] == [batch.id]
        with pytest.raises(openai.BadRequestError):
            await client.batches.cancel(batch.id)


async def test_anthropics_sdk_runs_a_batch(serve: Start) -> None:
    async with serve() as gateway, AsyncAnthropic(base_url=str(gateway.client.base_url), api_key="x") as client:
        requests: Any = [asked("a"), asked("b", max_tokens=-1)]
        batch = await client.messages.batches.create(requests=requests)
        async with asyncio.timeout(20):
            while batch.processing_status != "ended":
                await asyncio.sleep(0.01)
                batch = await client.messages.batches.retrieve(batch.id)
        found = {each.custom_id: each.result async for each in await client.messages.batches.results(batch.id)}
        assert found["a"].type == "succeeded"
        assert found["b"].type == "errored"
        assert [each.id async for each in client.messages.batches.list()] == [batch.id]
        assert (await client.messages.batches.delete(batch.id)).type == "message_batch_deleted"
