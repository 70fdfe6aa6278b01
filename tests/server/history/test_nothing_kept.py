"""Answers that may not be kept are in no file: of each door, streamed or whole, with each setting and `store`."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.fakes.openai import FakeOpenAI
from tests.server.wires.test_native_responses import events_in, fake

__all__ = ["fake"]
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


@asynccontextmanager
async def serving(fake: FakeOpenAI, folder: Path, store: str) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings.model_validate(
        {
            "data_dir": folder,
            "storage": {"store": store},
            "endpoint": [
                {"id": "chats", "protocol": "openai", "base_url": fake.base_url},
                {"id": "native", "protocol": "openai", "base_url": fake.base_url, "wire": "responses"},
            ],
            "model": [
                {
                    "id": f"{endpoint}/gpt",
                    "capabilities": ["chat"],
                    "source": {"kind": "upstream", "endpoint": endpoint, "model": "fake-chat"},
                    "price": {"input": 1, "output": 2},
                }
                for endpoint in ("chats", "native")
            ],
        }
    )
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client,
    ):
        yield client


def asked(door: str, model: str, said: str, **fields: Any) -> Json:
    messages = [{"role": "user", "content": said}]
    match door:
        case "/v1/responses":
            return {"model": model, "input": said, **fields}
        case "/v1/messages":
            return {"model": model, "messages": messages, "max_tokens": 50, **fields}
        case _:
            return {"model": model, "messages": messages, **fields}


def on_disk(folder: Path, texts: list[str]) -> set[str]:
    data = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert data, "the state is in no file"
    return {text for text in texts if text.encode() in data}


@pytest.mark.parametrize("store", ["default", "asked", "never"])
async def test_an_answer_is_in_a_file_only_if_it_is_kept(fake: FakeOpenAI, tmp_path: Path, store: str) -> None:
    kept, texts = set[str](), []
    async with serving(fake, tmp_path, store) as client:
        models = ("chats/gpt", "native/gpt")
        combinations = itertools.product((CHAT, RESPONSES, MESSAGES), models, (False, True), (None, True, False))
        for number, combination in enumerate(combinations):
            door, model, stream, wanted = combination
            texts.append(said := f"quokka{number:03}")
            fields: Json = {} if wanted is None or door == MESSAGES else {"store": wanted}
            if door == RESPONSES:
                fields["metadata"] = {"response": f"resp_{number}"}
            answer = await client.post(door, json=asked(door, model, said, stream=stream, **fields))
            if door == RESPONSES and wanted and store == "never":
                assert (answer.status_code, answer.json()["error"]["param"]) == (400, "store")
                continue
            assert answer.status_code == 200, answer.text
            default = door == RESPONSES and store == "default"
            keeps = door != MESSAGES and store != "never" and (default if wanted is None else wanted)
            if keeps:
                kept.add(said)
            if door == RESPONSES:
                told = events_in(answer.text)[-1]["response"] if stream else answer.json()
                assert told["store"] is keeps
            if door == CHAT and wanted and store == "never":
                assert "store" in answer.headers["x-roundhouse-dropped"]
                assert fake.calls[-1].body.get("store") is not True
                assert stream or answer.json()["store"] is False
    assert on_disk(tmp_path, texts) == kept
