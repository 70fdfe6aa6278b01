"""Anthropic's SDK, through the gateway, to Anthropic: requests and events pass as they are."""

from __future__ import annotations

import copy
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types.beta.message_create_params import MessageCreateParamsBase
from pydantic import ConfigDict, TypeAdapter

from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.fakes.anthropic import SIGNATURE, FakeAnthropic
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault

ANTHROPIC_TYPES = {429: "rate_limit_error", 503: "overloaded_error"}
NAMES = {"claude": "claude-x", "gpt": "fake-chat"}
KEY_ENV = "ROUNDHOUSE_TEST_ANTHROPIC_KEY"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the SDK has one type that allows extra fields
    SPEC: TypeAdapter[Any] = TypeAdapter(list[MessageCreateParamsBase], config=ConfigDict(extra="forbid"))
CITATION: Json = {
    "type": "char_location", "cited_text": "plain", "document_index": 0, "document_title": "T",
    "start_char_index": 0, "end_char_index": 5, "file_id": None,
}  # fmt: skip
BLOCKS: list[Json] = [
    {"type": "thinking", "thinking": "I search.", "signature": SIGNATURE},
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "fox"}},
    {
        "type": "web_search_tool_result", "tool_use_id": "srvtoolu_1",
        "content": [{
            "type": "web_search_result", "url": "https://example.com", "title": "T", "page_age": None,
            "encrypted_content": "x",
        }],
    },
    {"type": "text", "text": "A fox.", "citations": [CITATION]},
]  # fmt: skip
BODY: Json = {
    "model": "claude",
    "max_tokens": 6000,
    "system": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "plain"},
                    "title": "T",
                    "context": "C",
                    "citations": {"enabled": True},
                }
            ],
        }
    ],
    "tools": [
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 2},
        {
            "name": "weather",
            "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
            "input_examples": [{"city": "Paris"}],
        },
    ],
    "thinking": {"type": "enabled", "budget_tokens": 5000},
    "metadata": {"user_id": "u" * 150},
    "stop_sequences": ["END"],
    "context_management": {"edits": []},
}


@pytest.fixture
async def fake() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


@pytest.fixture
async def other() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def client(
    fake: FakeAnthropic, other: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv(KEY_ENV, fake.key)
    ends = [("far", "anthropic", fake.origin, [KEY_ENV], "claude"), ("near", "openai", other.base_url, [], "gpt")]
    capabilities = ["chat", "tools", "json_schema", "reasoning", "documents"]
    searching = {"claude": ["web_search"], "gpt": []}
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "endpoint": [
                {"id": name, "protocol": protocol, "base_url": url, "key_env": keys}
                for name, protocol, url, keys, _ in ends
            ],
            "model": [
                {
                    "id": f"{name}/{model}",
                    "aliases": [model],
                    "capabilities": [*capabilities, *searching[model]],
                    "source": {"kind": "upstream", "endpoint": name, "model": NAMES[model]},
                    "price": {"input": 1, "output": 2},
                }
                for name, _, _, _, model in ends
            ],
        }
    )
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as asking,
    ):
        yield asking


def consumed(value: Any) -> None:
    """Read lazily validated iterables to their end."""
    if isinstance(value, dict):
        for one in value.values():
            consumed(one)
    elif isinstance(value, list | Iterator):
        for one in value:
            consumed(one)


async def test_the_callers_body_and_betas_reach_anthropic_as_they_are(
    client: httpx.AsyncClient, fake: FakeAnthropic
) -> None:
    fake.blocks = (BLOCKS, "pause_turn")
    headers = {"anthropic-beta": "context-management-2025-06-27", "anthropic-version": "2023-06-01"}
    response = await client.post("/v1/messages", json=BODY, headers=headers)
    assert response.status_code == 200, response.text
    (call,) = fake.calls
    assert call.body == {**copy.deepcopy(BODY), "model": "claude-x", "stream": True}
    consumed(SPEC.validate_python([{name: value for name, value in call.body.items() if name != "stream"}]))
    assert {name: call.headers[name] for name in headers} == headers
    assert "x-roundhouse-dropped" not in response.headers


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_that_a_caller_asks_for_the_beta_api_reaches_anthropic(
    client: httpx.AsyncClient, fake: FakeAnthropic, path: str
) -> None:
    body = {name: BODY[name] for name in ("model", "messages", *(("max_tokens",) if "count" not in path else ()))}
    for query in ({"beta": "true"}, {}, {"beta": "no"}):
        response = await client.post(path, json=body, params=query)
        assert response.status_code == 200, response.text
    assert [call.query for call in fake.calls] == [{"beta": "true"}, {}, {}]


async def test_the_message_arrives_as_anthropic_gave_it_under_the_gateways_name_of_the_model(
    client: httpx.AsyncClient, fake: FakeAnthropic
) -> None:
    fake.blocks = (BLOCKS, "pause_turn")
    response = await client.post("/v1/messages", json=BODY)
    answer = response.json()
    assert answer["content"] == BLOCKS
    assert (answer["stop_reason"], answer["model"]) == ("pause_turn", "far/claude")
    assert answer["id"] == "msg_fake", "threads and diagnostics of later requests refer to Anthropic's id"
    assert answer["usage"]["cache_read_input_tokens"] == 11
    message = anthropic.types.Message.model_validate(answer)
    assert [block.type for block in message.content] == [block["type"] for block in BLOCKS]


async def test_events_pass_through_in_order_and_the_usage_is_still_counted(
    client: httpx.AsyncClient, fake: FakeAnthropic
) -> None:
    fake.blocks = (BLOCKS, "end_turn")
    response = await client.post("/v1/messages", json={**BODY, "stream": True})
    names = [line[7:] for line in response.text.splitlines() if line.startswith("event: ")]
    assert names[:2] == ["message_start", "ping"]
    assert names[-2:] == ["message_delta", "message_stop"]
    assert "citations_delta" in response.text
    assert "srvtoolu_1" in response.text
    trace = (await client.get(f"/v1/traces/{response.headers['x-roundhouse-trace']}")).json()
    assert trace["attempts"][0]["result"] == "success"
    assert trace["attempts"][0]["usage"]["output"] > 0


async def test_another_language_goes_without_anthropics_own_tools_unless_one_is_demanded(
    client: httpx.AsyncClient, fake: FakeAnthropic, other: FakeOpenAI
) -> None:
    code = {"type": "code_execution_20250825", "name": "code_execution"}
    body = {**BODY, "model": "gpt", "tools": [code, *BODY["tools"]]}
    answer = await client.post("/v1/messages", json=body)
    assert answer.status_code == 200, answer.text
    dropped = answer.headers["x-roundhouse-dropped"].split(", ")
    assert {"tools.code_execution_20250825", "tools.web_search_20250305"} <= set(dropped)
    assert [tool["function"]["name"] for tool in other.calls[-1].body["tools"]] == ["weather"]
    for name in ("code_execution", "web_search"):
        refused = await client.post("/v1/messages", json={**body, "tool_choice": {"type": "tool", "name": name}})
        assert refused.status_code == 400
        assert refused.json()["error"]["type"] == "invalid_request_error"
        assert name in refused.json()["error"]["message"]
    only = {**body, "tools": [code], "tool_choice": {"type": "any"}}
    assert (await client.post("/v1/messages", json=only)).status_code == 400
    assert len(other.calls) == 1


@pytest.mark.parametrize(
    ("fault", "times", "status"),
    [(Fault(status=429, headers={"retry-after": "9"}), 1, 429), (Fault(status=500), 12, 503)],
    ids=["its key rests", "it failed too often"],
)
async def test_a_request_that_only_claude_can_answer_waits_while_claude_rests(
    client: httpx.AsyncClient, fake: FakeAnthropic, other: FakeOpenAI, fault: Fault, times: int, status: int
) -> None:
    body = {**BODY, "model": "auto"}
    for _ in range(times):
        fake.script(fault)
        await client.post("/v1/messages", json=body)
    asked = len(fake.calls)
    response = await client.post("/v1/messages", json=body)
    assert len(fake.calls) == asked
    assert (response.status_code, response.json()["error"]["type"]) == (status, ANTHROPIC_TYPES[status])
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert "claude" in response.json()["error"]["message"]
    assert not other.calls


async def test_another_language_names_what_it_dropped_and_strict_refuses(
    client: httpx.AsyncClient, other: FakeOpenAI
) -> None:
    body = {**BODY, "model": "gpt", "tools": BODY["tools"][1:]}
    response = await client.post("/v1/messages", json=body)
    assert response.status_code == 200, response.text
    named = response.headers["x-roundhouse-dropped"].split(", ")
    assert {"messages.content.context", "messages.content.citations", "tools.input_examples"} <= set(named)
    assert "context_management" in named
    strict = await client.post("/v1/messages", json={**body, "routing": {"strict": True}})
    assert strict.status_code == 400
    assert len(other.calls) == 1


async def test_thinking_of_another_model_is_never_sent_to_claude(
    client: httpx.AsyncClient, fake: FakeAnthropic
) -> None:
    said = {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Another's.", "signature": ""},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {}, "extra_content": {"google": {}}},
        ],
    }
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "Sunny."}]}
    messages = [{"role": "user", "content": "Hi"}, said, result]
    response = await client.post("/v1/messages", json={**BODY, "messages": messages})
    assert response.status_code == 200, response.text
    assert fake.calls[0].body["messages"][1]["content"] == [
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}
    ]
    assert response.headers["x-roundhouse-dropped"] == "messages.thinking, thinking"


async def test_anthropic_counts_the_tokens_of_its_own_models_for_nothing(
    client: httpx.AsyncClient, fake: FakeAnthropic
) -> None:
    body = {name: BODY[name] for name in ("model", "system", "messages", "tools", "thinking")}
    response = await client.post("/v1/messages/count_tokens", json=body)
    assert response.json() == {"input_tokens": 4321}
    assert "x-roundhouse-estimate" not in response.headers
    (call,) = fake.calls
    assert call.path == "/v1/messages/count_tokens"
    assert call.body == {**body, "model": "claude-x"}
    fake.script(Fault(status=429))
    assert (await client.post("/v1/messages/count_tokens", json=body)).headers["x-roundhouse-estimate"] == "true"
    fake.blocks = ([{"type": "text", "text": "Hi"}], "end_turn")
    assert (await client.post("/v1/messages", json=BODY)).status_code == 200, "a limit of counting rests no key"


async def test_errors_keep_anthropics_shape_and_request_id(client: httpx.AsyncClient, fake: FakeAnthropic) -> None:
    fake.script(Fault(status=529, message="Overloaded"))
    response = await client.post("/v1/messages", json=BODY)
    assert (response.status_code, response.json()["error"]["type"]) == (529, "overloaded_error")
    assert response.json()["request_id"]
    bad = await client.post("/v1/messages", json=BODY, headers={"anthropic-beta": "a\x07b"})
    assert bad.status_code == 400
