"""A JSON schema for a model whose server takes none: it is told to the model, and the answer is held to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault

SCHEMA: Json = {
    "type": "object",
    "properties": {"title": {"type": "string"}},
    "required": ["title"],
    "additionalProperties": False,
}
GOOD = '{"title": "Foxes"}'
HELLO = [{"role": "user", "content": "A title, please."}]
DOORS: dict[str, Json] = {
    "/v1/chat/completions": {
        "messages": HELLO,
        "response_format": {"type": "json_schema", "json_schema": {"name": "t", "schema": SCHEMA, "strict": True}},
    },
    "/v1/responses": {
        "input": HELLO,
        "text": {"format": {"type": "json_schema", "name": "t", "schema": SCHEMA, "strict": True}},
    },
    "/v1/messages": {
        "messages": HELLO,
        "system": [{"type": "text", "text": "You write titles."}],
        "max_tokens": 100,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    },
}


class Stand(NamedTuple):
    fake: FakeOpenAI
    http: httpx.AsyncClient


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    """``plain`` has no schemas by its row, ``bound`` has; both are at a server that says what it is told to."""
    async with FakeOpenAI() as fake:
        fake.reply, fake.keeps_form = GOOD, False
        rows = {"plain": ["chat", "tools"], "bound": ["chat", "tools", "json_schema"]}
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path,
                "endpoint": [{"id": "far", "protocol": "openai", "base_url": fake.base_url}],
                "model": [
                    {
                        "id": name,
                        "capabilities": able,
                        "source": {"kind": "upstream", "endpoint": "far", "model": "fake-chat"},
                    }
                    for name, able in rows.items()
                ],
            }
        )
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as http,
        ):
            yield Stand(fake, http)


def text_in(path: str, answer: httpx.Response) -> str:
    found: Json = answer.json()
    if path.endswith("completions"):
        return str(found["choices"][0]["message"]["content"])
    if path.endswith("responses"):
        return str(found["output"][-1]["content"][0]["text"])
    return str(found["content"][0]["text"])


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("reply", [GOOD, f"```json\n{GOOD}\n```"])
async def test_a_schema_is_told_to_a_model_without_schemas_and_kept(stand: Stand, path: str, reply: str) -> None:
    stand.fake.reply = reply
    answer = await stand.http.post(path, json={"model": "plain", **DOORS[path]})
    assert answer.status_code == 200, answer.text
    assert text_in(path, answer) == GOOD
    (call,) = stand.fake.calls
    assert "response_format" not in call.body
    first = call.body["messages"][0]
    assert first["role"] == "system"
    assert json.dumps(SCHEMA) in str(first["content"])


@pytest.mark.parametrize("path", DOORS)
async def test_a_server_that_refuses_schemas_is_asked_again_with_the_schema_told(stand: Stand, path: str) -> None:
    stand.fake.script(Fault(status=400, message="This response_format type is unavailable now"))
    answer = await stand.http.post(path, json={"model": "bound", **DOORS[path]})
    assert answer.status_code == 200, answer.text
    assert text_in(path, answer) == GOOD
    assert [("response_format" in call.body) for call in stand.fake.calls] == [True, False]


@pytest.mark.parametrize("reply", ['{"title": 5}', '{"other": "x"}', "Foxes", "[]"])
@pytest.mark.parametrize("path", DOORS)
async def test_an_answer_that_breaks_a_told_schema_is_an_error_whole_and_streamed(
    stand: Stand, path: str, reply: str
) -> None:
    stand.fake.reply = reply
    answer = await stand.http.post(path, json={"model": "plain", **DOORS[path]})
    assert answer.status_code == 502, answer.text
    streamed = await stand.http.post(path, json={"model": "plain", "stream": True, **DOORS[path]})
    assert streamed.status_code == 502 or "does not" in streamed.text or "is not the JSON" in streamed.text


@pytest.mark.parametrize("path", DOORS)
async def test_a_told_schema_streams(stand: Stand, path: str) -> None:
    answer = await stand.http.post(path, json={"model": "plain", "stream": True, **DOORS[path]})
    assert answer.status_code == 200
    assert "error" not in answer.text.replace('"error":null', "")


async def test_a_strict_request_and_a_schema_of_no_object_stay_a_400(stand: Stand) -> None:
    asked = DOORS["/v1/chat/completions"]
    strict = await stand.http.post(
        "/v1/chat/completions", json={"model": "plain", "routing": {"strict": True}, **asked}
    )
    other = {"type": "json_schema", "json_schema": {"name": "t", "schema": {"type": "array"}}}
    array = await stand.http.post(
        "/v1/chat/completions", json={"model": "plain", "messages": HELLO, "response_format": other}
    )
    for refused in (strict, array):
        assert refused.status_code == 400
        assert "json_schema" in refused.json()["error"]["message"]
    assert not stand.fake.calls


async def test_auto_prefers_a_model_that_is_bound_to_the_schema(stand: Stand) -> None:
    answer = await stand.http.post("/v1/chat/completions", json={"model": "auto", **DOORS["/v1/chat/completions"]})
    assert answer.headers["x-roundhouse-model"] == "bound"
    assert "response_format" in stand.fake.calls[-1].body
