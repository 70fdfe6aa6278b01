"""The settings of storage, and the refusals of turns that cannot be gone on from."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from routing.state.records import Record, RecordQuery
from tests.server.batches.helpers import chat_line, content, jsonl, send, until
from tests.server.conftest import Gateway, Start
from tests.server.fakes import chunk
from tests.server.history.test_responses import runtime_of

MESSAGES = [{"role": "user", "content": "Hi"}]


def never(gateway: Gateway) -> None:
    storage = runtime_of(gateway).storage
    storage.configure(storage.settings.model_copy(update={"store": "never"}))


async def test_a_chat_that_may_not_be_stored_says_so(serve: Start) -> None:
    async with serve() as gateway:
        never(gateway)
        body = {"model": "parrot", "messages": MESSAGES, "store": True}
        answer = await gateway.client.post("/v1/chat/completions", json=body)
        assert answer.json()["store"] is False
        assert "store" in answer.headers["x-roundhouse-dropped"]


async def test_a_line_of_a_batch_that_may_not_be_stored_says_so_and_is_stored_nowhere(serve: Start) -> None:
    async with serve() as gateway:
        never(gateway)
        batch = await until(gateway, await send(gateway, jsonl(chat_line("a", store=True))), "completed")
        (row,) = await content(gateway, batch["output_file_id"])
        assert row["response"]["body"]["store"] is False
        assert "store" not in gateway.backend.requests[-1].to_wire()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/responses", {"model": "parrot", "input": "Hi", "background": True, "store": True}),
        ("/v1/conversations", {}),
    ],
)
async def test_what_needs_storage_is_refused_by_the_name_of_the_setting(
    serve: Start, path: str, fields: dict[str, Any]
) -> None:
    async with serve() as gateway:
        never(gateway)
        answer = await gateway.client.post(path, json=fields)
        assert answer.status_code == 400
        assert "storage.store" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "nonsense"},
        {"previous_response_id": "resp_x"},
        {"previous_response_id": ""},
        {"conversation": "conv_x"},
        {"input": [{"type": "item_reference"}]},
        {"input": [{"type": "nonsense"}]},
    ],
)
async def test_an_input_that_cannot_be_resolved_is_not_counted(serve: Start, fields: dict[str, Any]) -> None:
    async with serve() as gateway:
        asked = {"model": "parrot", "input": "Hi", **fields}
        answer = await gateway.client.post("/v1/responses/input_tokens", json=asked)
        assert answer.status_code == (404 if "conversation" in fields else 400), answer.text
        message = answer.json()["error"]["message"]
        assert "is empty; send a text" not in message
        assert "are not supported" not in message


async def test_a_negative_number_is_refused_by_its_bound(serve: Start) -> None:
    async with serve() as gateway:
        answer = await gateway.client.get("/v1/chat/completions", params={"limit": "-1"})
        assert answer.status_code == 400
        assert "whole number" not in answer.json()["error"]["message"]


async def test_a_reader_of_a_response_that_is_deleted_gets_an_error(
    serve: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as gateway:
        gateway.backend.script = (chunk("Hello"), asyncio.Event())
        body = {"model": "parrot", "input": "Hi", "background": True}
        name = (await gateway.client.post("/v1/responses", json=body)).json()["id"]
        storage = runtime_of(gateway).storage
        async with asyncio.timeout(10):
            await gateway.backend.started.wait()
            address = f"/v1/responses/{name}?stream=true"
            reading = asyncio.create_task(gateway.client.get(address))
            read = storage.records.find
            looked = asyncio.Event()

            async def find(query: RecordQuery) -> list[Record]:
                if query.kind == "response_events" and not query.newest_first:
                    looked.set()
                return await read(query)

            monkeypatch.setattr(storage.records, "find", find)
            await looked.wait()
            await storage.records.delete("response", name)
            text = (await reading).text
        assert f"The response '{name}' was deleted." in text
