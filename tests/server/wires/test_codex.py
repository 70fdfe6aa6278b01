"""Codex CLI's own requests, as recorded from version 0.171 and shortened, to models that are not OpenAI's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.scripted import Scripted

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
RECORDED = Path(__file__).parents[2] / "data" / "codex"
"""Each holds a second turn: the last two items are the call that the model made, and what Codex says of it."""
KEY_ENV = "ROUNDHOUSE_TEST_CLAUDE_KEY"
TOOLS = {
    "default": "exec_command",
    "custom_tools": "apply_patch",
    "additional_tools": "functions__exec",
}


@pytest.fixture
async def chat() -> AsyncIterator[Scripted]:
    async with Scripted() as server:
        yield server


@pytest.fixture
async def claude() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


@pytest.fixture
async def client(
    chat: Scripted, claude: FakeAnthropic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv(KEY_ENV, claude.key)
    ends: list[Json] = [
        {"id": "far", "protocol": "openai", "base_url": chat.base_url},
        {"id": "near", "protocol": "anthropic", "base_url": claude.origin, "key_env": [KEY_ENV]},
    ]
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "endpoint": ends,
            "model": [
                {
                    "id": f"{end['id']}/model",
                    "capabilities": ["chat", "tools", "reasoning"],
                    "source": {"kind": "upstream", "endpoint": end["id"], "model": name},
                }
                for end, name in zip(ends, ("fake-chat", "claude-sonnet-5"), strict=True)
            ],
        }
    )
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as asking,
    ):
        yield asking


def recorded(name: str, **fields: Any) -> Json:
    return {**orjson.loads((RECORDED / f"{name}.json").read_bytes()), **fields}


def items_of(response: httpx.Response) -> list[Json]:
    """The output of a streamed response, whose events OpenAI's SDK takes."""
    assert response.status_code == 200, response.text
    events = [orjson.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    for event in events:
        EVENT.validate_python(event)
    assert events[-1]["type"] == "response.completed"
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert events[-1]["response"]["output"] == done
    return done


@pytest.mark.parametrize("name", TOOLS)
async def test_codex_gets_the_call_that_it_knows_and_then_the_text(
    client: httpx.AsyncClient, chat: Scripted, name: str
) -> None:
    body = recorded(name, model="far/model")
    *turns, call, result = body["input"]
    given = call["input"] if "input" in call else call["arguments"]
    told = json.dumps({"input": given}) if "input" in call else given
    turns[-1] = {"role": "user", "content": f'Call {TOOLS[name]} {told} Say "All done."'}
    first = await client.post("/v1/responses", json={**body, "input": turns})
    (made,) = items_of(first)
    ours = {"id", "call_id", "status", "arguments"}
    assert {k: v for k, v in made.items() if k not in ours} == {k: v for k, v in call.items() if k not in ours}
    if "arguments" in call:
        assert json.loads(made["arguments"]) == json.loads(call["arguments"])
    second = await client.post("/v1/responses", json={**body, "input": [*turns, call, result]})
    (said,) = items_of(second)
    assert said["content"][0]["text"] == "All done."
    assert not chat.refusals
    sent = chat.calls[-1].body["messages"][-1]
    assert (sent["role"], sent["tool_call_id"]) == ("tool", call["call_id"])
    assert "client_metadata" in second.headers["x-roundhouse-dropped"]
    assert ("tools.web_search" in second.headers["x-roundhouse-dropped"]) == (name != "additional_tools")
    assert ("tools.format" in second.headers["x-roundhouse-dropped"]) == (name != "default")


@pytest.mark.parametrize("name", TOOLS)
async def test_codex_is_answered_by_claude_too(
    client: httpx.AsyncClient, claude: FakeAnthropic, name: str
) -> None:
    body = recorded(name, model="near/model")
    assert items_of(await client.post("/v1/responses", json=body))[-1]["content"][0]["text"] == claude.reply
    *_, call, result = claude.calls[-1].body["messages"]
    assert call["content"][-1]["name"] == TOOLS[name]
    assert result["content"][0]["tool_use_id"] == body["input"][-1]["call_id"]


@pytest.mark.parametrize("model", ["far/model", "auto"])
async def test_a_search_that_no_model_can_do_is_left_out_and_named(
    client: httpx.AsyncClient, chat: Scripted, model: str
) -> None:
    ask: Json = {"model": model, "input": "Hi", "tools": [{"type": "web_search"}]}
    answer = await client.post("/v1/responses", json=ask)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-roundhouse-dropped"] == "tools.web_search"
    assert all("web_search_options" not in call.body for call in chat.calls)
    strict = await client.post("/v1/responses", json={**ask, "routing": {"strict": True}})
    assert strict.status_code == 400
    demanded = await client.post("/v1/responses", json={**ask, "tool_choice": {"type": "web_search"}})
    assert demanded.status_code == 400
    assert demanded.json()["error"]["param"] == "tool_choice"
