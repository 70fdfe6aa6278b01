"""POST /v1/moderations, by OpenAI's SDK and against a real catalogue."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from openai.types import ModerationTextInputParam

from server.app import create_app
from server.settings import Settings
from tests.fakes.openai import FakeOpenAI
from tests.server.api.test_openai_sdk import sdk
from tests.server.conftest import Start


async def test_openais_sdk_reads_the_verdicts(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        given = await client.moderations.create(input=["a", "b"])
        part: ModerationTextInputParam = {"type": "text", "text": "a"}
        parts = await client.moderations.create(model="parrot", input=[part])
    assert [result.flagged for result in given.results] == [True, True]
    assert given.results[0].categories.violence is True
    assert given.results[0].category_scores.self_harm_intent == 0.0
    assert len(parts.results) == 1


async def test_bad_input_is_told_by_its_place(serve: Start) -> None:
    async with serve() as gateway:
        for given, param in (([], "input"), ([{"type": "video"}], "input[0]"), (7, "input")):
            answer = await gateway.client.post("/v1/moderations", json={"input": given})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_picture_is_judged_by_the_model_that_sees_and_refused_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUNDHOUSE_TEST_MODERATION_KEY", "sk-x")
    picture = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    async with FakeOpenAI() as fake:
        source = {"kind": "upstream", "endpoint": "there", "model": "fake-moderation"}
        rows = [
            {"id": "warden", "capabilities": ["moderate"], "source": source},
            {"id": "seer", "capabilities": ["moderate", "vision"], "source": source},
        ]
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path,
                "log": {"level": "error"},
                "endpoint": [
                    {
                        "id": "there",
                        "base_url": fake.base_url,
                        "key_env": ["ROUNDHOUSE_TEST_MODERATION_KEY"],
                        "private": True,
                    }
                ],
                "model": [{**row, "price": {"input": 0, "output": 0}} for row in rows],
            }
        )
        app = create_app(settings)
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            seen = await client.post("/v1/moderations", json={"input": picture})
            assert (seen.status_code, seen.json()["model"]) == (200, "seer")
            blind = await client.post("/v1/moderations", json={"model": "warden", "input": picture})
            assert blind.status_code == 400
            plain = await client.post("/v1/moderations", json={"input": "hello"})
            assert plain.json()["model"] in ("warden", "seer"), "not a chat model"
