"""The Responses API, through the gateway, to an upstream of the same API: requests and events pass as they are."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import orjson
import pytest
from aiohttp import web
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from backends.streams.sealing import encode_thinking
from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_responses import ENCRYPTED, THOUGHT, message_item, text_part
from tests.fakes.server import Call, Fault

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
KEY_ENV = "ROUNDHOUSE_TEST_CLAUDE_KEY"
SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SEARCHED: Json = {
    "id": "ws_1", "type": "web_search_call", "status": "completed",
    "action": {"type": "search", "query": "fox", "queries": ["fox"]},
}  # fmt: skip
CITED: Json = {
    "type": "url_citation",
    "url": "https://example.com",
    "title": "T",
    "start_index": 0,
    "end_index": 1,
}
BODY: Json = {
    "model": "gpt",
    "instructions": "Be brief.",
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look.", "prompt_cache_breakpoint": {"mode": "explicit"}},
                {"type": "input_file", "file_id": "file_1"},
            ],
        },
        {"type": "reasoning", "id": "rs_0", "summary": [], "encrypted_content": "gAAAAA"},
    ],
    "tools": [
        {"type": "web_search", "search_context_size": "low"},
        {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False, "defer_loading": False},
        {"type": "mcp", "server_label": "x", "server_url": "https://example.com/mcp", "require_approval": "never"},
    ],
    "tool_choice": {"type": "web_search_preview"},
    "include": ["web_search_call.action.sources", "reasoning.encrypted_content"],
    "store": False,
    "truncation": "auto",
    "max_tool_calls": 3,
    "reasoning": {"effort": "low", "summary": "auto", "context": "all_turns"},
    "prompt_cache_key": "k",
    "safety_identifier": "u",
    "context_management": [{"type": "compaction", "compact_threshold": 1000}],
}
PLAIN: Json = {"model": "gpt", "input": "Hi"}


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def other() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


@pytest.fixture
async def client(
    fake: FakeOpenAI, other: FakeAnthropic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv(KEY_ENV, other.key)
    ends: list[Json] = [
        {"id": "far", "protocol": "openai", "base_url": fake.base_url, "wire": "responses"},
        {"id": "near", "protocol": "anthropic", "base_url": other.origin, "key_env": [KEY_ENV]},
    ]
    names = [("far/gpt", ["gpt"], "fake-chat"), ("near/claude", ["claude"], "claude-sonnet-5")]
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "routing": {"preferred": {"chat": "far/gpt"}},
            "endpoint": ends,
            "model": [
                {
                    "id": model_id,
                    "aliases": aliases,
                    "capabilities": ["chat", "tools", "json_schema", "reasoning", "documents", "web_search"],
                    "source": {"kind": "upstream", "endpoint": model_id.partition("/")[0], "model": name},
                    "price": {"input": 1 if model_id == "far/gpt" else 9, "output": 2},
                }
                for model_id, aliases, name in names
            ],
        }
    )
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as asking,
    ):
        yield asking


def events_in(text: str) -> list[Json]:
    return [orjson.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


async def test_the_callers_body_reaches_the_upstream_as_it_is(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    response = await client.post("/v1/responses", json={**BODY, "routing": {"task": "chat"}})
    assert response.status_code == 200, response.text
    (call,) = fake.calls
    assert call.path == "/v1/responses"
    assert call.body == {**copy.deepcopy(BODY), "model": "fake-chat", "stream": True}
    assert "x-roundhouse-dropped" not in response.headers


async def test_the_response_arrives_as_it_was_under_the_gateways_name_of_the_model(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    fake.output = [SEARCHED, message_item([text_part(("A", " fox."), annotations=(CITED,))])]
    response = await client.post("/v1/responses", json=BODY)
    answer = response.json()
    assert answer["output"] == fake.output
    assert (answer["model"], answer["status"], answer["store"]) == ("far/gpt", "completed", False)
    assert answer["id"] == f"resp_{response.headers['x-roundhouse-trace']}"
    Response.model_validate(answer)


async def test_events_pass_in_order_unknown_ones_too_and_the_usage_is_counted(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    fake.output = [SEARCHED, message_item([text_part(("A", " fox."), annotations=(CITED,))])]
    fake.between = [{"type": "response.brand.new", "value": 1, "sequence_number": 4}]
    response = await client.post("/v1/responses", json={**PLAIN, "stream": True})
    events = events_in(response.text)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "in_progress"]
    assert "brand.new" in kinds
    assert "web_search_call.searching" in kinds
    assert "output_text.annotation.added" in kinds
    assert kinds[-1] == "completed"
    for event in events:
        if event["type"] != "response.brand.new":
            EVENT.validate_python(event)
    assert {event["response"]["model"] for event in events if "response" in event} == {"far/gpt"}
    trace = (await client.get(f"/v1/traces/{response.headers['x-roundhouse-trace']}")).json()
    assert trace["attempts"][0]["result"] == "success"
    assert trace["attempts"][0]["usage"]["output"] > 0


async def test_another_language_is_refused_what_only_a_responses_upstream_can_do(
    client: httpx.AsyncClient, other: FakeAnthropic
) -> None:
    for change, named in (
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        (
            {
                "tools": [{"type": "file_search", "vector_store_ids": ["v"]}],
                "tool_choice": {"type": "file_search"},
            },
            "file_search",
        ),
        ({"input": [{"type": "item_reference", "id": "msg_0"}]}, "msg_0"),
    ):
        response = await client.post("/v1/responses", json={**PLAIN, **change, "model": "claude"})
        assert response.status_code == 400
        error = response.json()["error"]
        assert named in f"{error['param']} {error['message']}"
    assert not other.calls


@pytest.mark.parametrize("fault", ["status", "failed", "error"])
async def test_a_fallback_into_another_language_translates_and_names_what_it_dropped(
    client: httpx.AsyncClient, fake: FakeOpenAI, other: FakeAnthropic, fault: str
) -> None:
    if fault == "status":
        fake.script(Fault(status=503))
    elif fault == "failed":
        fake.output = []
        fake.ending = {"status": "failed", "error": {"code": "server_error", "message": "It failed."}}
    else:
        fake.between = [{"type": "error", "code": "server_error", "message": "It failed.", "sequence_number": 4}]
    said = {"type": "message", "role": "assistant", "content": "Hm.", "phase": "commentary"}
    turns = [{"role": "user", "content": "Hi"}, said, {"role": "user", "content": "Go on."}]
    response = await client.post("/v1/responses", json={**PLAIN, "model": "auto", "input": turns})
    assert response.status_code == 200, response.text
    assert response.headers["x-roundhouse-model"] == "near/claude"
    assert "input.phase" in response.headers["x-roundhouse-dropped"]
    assert (len(fake.calls), len(other.calls)) == (1, 1)
    assert response.json()["output"][0]["content"][0]["text"] == other.reply


async def test_what_needs_a_responses_upstream_does_not_fall_back_into_another_language(
    client: httpx.AsyncClient, fake: FakeOpenAI, other: FakeAnthropic
) -> None:
    fake.script(Fault(status=503))
    response = await client.post("/v1/responses", json={**BODY, "model": "auto"})
    assert response.status_code == 503
    assert not other.calls


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_0"}]}]},
            "input",
            "The file 'file_0' was not found.",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-0"}]}]},
            None,
            "No such File object: file-0",
        ),
        ({"prompt": {"id": "pmpt_x"}}, None, "Prompt with id 'pmpt_x' not found."),
        ({"prompt": {"id": "pmpt_x"}}, None, "There is no such version."),
        (
            {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
            None,
            "Vector store with id ['vs_1'] not found.",
        ),
    ],
)
async def test_an_unknown_id_in_a_request_is_the_callers_mistake_and_opens_no_breaker(
    client: httpx.AsyncClient,
    fake: FakeOpenAI,
    monkeypatch: pytest.MonkeyPatch,
    fields: Json,
    param: str | None,
    message: str,
) -> None:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    monkeypatch.setattr(fake, "rejected", lambda _: web.json_response({"error": error}, status=404))
    for _ in range(7):
        response = await client.post("/v1/responses", json={**PLAIN, **fields})
        assert response.status_code == 400, response.text
        assert message in response.json()["error"]["message"]
    monkeypatch.undo()
    assert (await client.post("/v1/responses", json=PLAIN)).status_code == 200
    assert len(fake.calls) == 8


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("model_not_found", "The model `fake-chat` does not exist."),
        (None, "Invalid URL (POST /v1/responses)"),
        (None, "Not found: fake-chat"),
    ],
)
async def test_a_model_or_path_that_is_not_there_is_no_mistake_of_the_caller(
    client: httpx.AsyncClient, fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, code: str | None, message: str
) -> None:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    monkeypatch.setattr(fake, "rejected", lambda _: web.json_response({"error": error}, status=404))
    response = await client.post("/v1/responses", json={**PLAIN, "prompt": {"id": "pmpt_x"}})
    assert response.json()["error"]["param"] == "model"


async def test_a_failure_after_the_first_text_ends_the_stream_with_response_failed(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    fake.ending = {"status": "failed", "error": {"code": "server_error", "message": "It failed."}}
    response = await client.post("/v1/responses", json={**PLAIN, "stream": True})
    events = events_in(response.text)
    assert [event["type"] for event in events].count("response.created") == 1
    assert "It failed." in events[-1]["response"]["error"]["message"]
    assert events[-1]["type"] == "response.failed"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    EVENT.validate_python(events[-1])


async def test_a_stream_that_is_cut_never_looks_complete(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    fake.ending = {"status": "lost"}
    response = await client.post("/v1/responses", json={**PLAIN, "stream": True})
    assert events_in(response.text)[-1]["type"] == "response.failed"


async def test_reasoning_of_another_provider_is_never_sent(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    sealed = encode_thinking([{"type": "thinking", "thinking": "Hm.", "signature": "s"}])
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
    turns = [
        {"role": "user", "content": "Hi"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed},
        {**call, "extra_content": {"google": {}}},
        {"type": "function_call_output", "call_id": "c1", "output": "Sunny."},
    ]
    response = await client.post("/v1/responses", json={**PLAIN, "input": turns})
    assert response.status_code == 200, response.text
    assert fake.calls[0].body["input"] == [turns[0], call, turns[3]]
    assert response.headers["x-roundhouse-dropped"] == "input.reasoning"


async def test_reasoning_that_the_upstream_cannot_decrypt_is_left_out_and_named(
    client: httpx.AsyncClient, fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rejected(call: Call) -> web.Response | None:
        if '"of-another"' not in orjson.dumps(call.body["input"]).decode():
            return None
        message = "The encrypted content for item rs_1 could not be verified."
        return fake.refused(call, 400, message, code="invalid_encrypted_content")

    monkeypatch.setattr(fake, "rejected", rejected)
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "of-another"}
    turns = [{"role": "user", "content": "Hi"}, thought, {"role": "assistant", "content": "Hm."}]
    turns.append({"role": "user", "content": "Go on."})
    response = await client.post("/v1/responses", json={**PLAIN, "input": turns})
    assert response.status_code == 200, response.text
    assert response.headers["x-roundhouse-dropped"] == "input.reasoning"
    assert fake.calls[1].body["input"] == [turns[0], *turns[2:]]
    block = {**thought, "endpoint": "far", "before": None}
    said = {"role": "assistant", "content": "Hm.", "thinking_blocks": [block]}
    chat = {"model": "gpt", "messages": [turns[0], said, turns[3]]}
    answer = await client.post("/v1/chat/completions", json=chat)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-roundhouse-dropped"] == "messages.thinking_blocks"
    strict = await client.post("/v1/responses", json={**PLAIN, "input": turns, "routing": {"strict": True}})
    assert strict.status_code == 400
    trace = (await client.get(f"/v1/traces/{response.headers['x-roundhouse-trace']}")).json()
    assert len(trace["attempts"]) == 1


async def test_a_caller_of_messages_gives_the_reasoning_back_and_claude_never_sees_it(
    client: httpx.AsyncClient, fake: FakeOpenAI, other: FakeAnthropic
) -> None:
    tool = {"name": "weather", "input_schema": SCHEMA}
    ask: Json = {"model": "gpt", "max_tokens": 500, "tools": [tool], "thinking": {"type": "adaptive"}}
    turns: list[Json] = [{"role": "user", "content": "How is Paris?"}]
    said = (await client.post("/v1/messages", json={**ask, "messages": turns})).json()
    anthropic.types.Message.model_validate(said)
    assert [block["type"] for block in said["content"]] == ["redacted_thinking", "tool_use"]
    result = {"type": "tool_result", "tool_use_id": said["content"][1]["id"], "content": "Sunny."}
    turns += [{"role": "assistant", "content": said["content"]}, {"role": "user", "content": [result]}]
    response = await client.post("/v1/messages", json={**ask, "messages": turns})
    assert response.status_code == 200, response.text
    kept = [item for item in fake.calls[1].body["input"] if item["type"] == "reasoning"]
    assert [item["encrypted_content"] for item in kept] == [ENCRYPTED]
    moved = await client.post("/v1/messages", json={**ask, "model": "claude", "messages": turns})
    assert moved.status_code == 200, moved.text
    assert "messages.thinking" in moved.headers["x-roundhouse-dropped"]
    assert [block["type"] for block in other.calls[0].body["messages"][1]["content"]] == ["tool_use"]


async def test_a_chat_gives_the_reasoning_back(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    asked: list[Json] = [{"role": "user", "content": "Hi"}]
    ask: Json = {"model": "gpt", "reasoning_effort": "low", "reasoning": {"summary": "auto"}}
    first = (await client.post("/v1/chat/completions", json={**ask, "messages": asked})).json()
    message = first["choices"][0]["message"]
    assert message["reasoning_content"] == THOUGHT
    turns = [*asked, message, {"role": "user", "content": "Go on."}]
    second = await client.post("/v1/chat/completions", json={**ask, "messages": turns})
    assert second.status_code == 200, second.text
    assert [item["type"] for item in fake.calls[1].body["input"]] == ["message", "reasoning", "message", "message"]


async def test_openai_counts_the_tokens_of_its_own_models(client: httpx.AsyncClient, fake: FakeOpenAI) -> None:
    asked = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], "tools": [], "system": "Be brief."}
    response = await client.post("/v1/messages/count_tokens", json=asked)
    assert response.json() == {"input_tokens": 4321}
    assert "x-roundhouse-estimate" not in response.headers
    assert fake.calls[0].path == "/v1/responses/input_tokens"
    assert set(fake.calls[0].body) == {"model", "input"}


async def test_a_call_of_a_tool_that_no_chat_holds_is_no_fault_of_the_model(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    call = {"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "list", "arguments": "{}"}
    fake.output = [{**call, "namespace": "files", "status": "completed"}]
    tool = {"type": "function", "name": "list", "parameters": {"type": "object"}}
    known = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}
    spaces = {"type": "namespace", "name": "files", "description": "Files.", "tools": [{**tool, "strict": False}]}
    response = await client.post("/v1/responses", json={**PLAIN, "tools": [known, spaces]})
    assert response.status_code == 200, response.text
    assert response.json()["output"] == fake.output
    trace = (await client.get(f"/v1/traces/{response.headers['x-roundhouse-trace']}")).json()
    assert trace["attempts"][0]["valid"] is not False


async def test_a_tools_own_name_and_form_pass_through_both_ways(
    client: httpx.AsyncClient, fake: FakeOpenAI
) -> None:
    union = {"anyOf": [SCHEMA, {"type": "object", "properties": {"zip": {"type": "string"}}}]}
    tool = {"type": "function", "name": "a.b/c d", "parameters": union, "strict": False}
    call = {"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "a.b/c d", "arguments": '{"city":"P"}'}
    fake.output = [{**call, "status": "completed"}]
    response = await client.post("/v1/responses", json={**PLAIN, "tools": [tool], "stream": True})
    assert fake.calls[0].body["tools"] == [tool]
    assert events_in(response.text)[-1]["response"]["output"] == fake.output


async def test_the_wire_is_told_where_a_model_is_shown(client: httpx.AsyncClient) -> None:
    card = (await client.get("/v1/models/far/gpt")).json()
    assert card["wire"] == "responses"
    asked = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
    plan = (await client.post("/v1/route", json=asked)).json()
    assert {each["model"]: each["wire"] for each in plan["candidates"]} == {
        "far/gpt": "responses", "near/claude": "anthropic",
    }  # fmt: skip
