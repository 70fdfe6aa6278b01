"""A form that is insisted on, a conversation that is kept elsewhere and a field by another API's name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.fakes.openai import FakeOpenAI

SCHEMA: Json = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
STRICT: Json = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
BAD, GOOD = '{"n": "no"}', '{"n": 7}'


class Deaf(FakeOpenAI):
    """A server that says its reply whatever form is asked for, and is deaf to the fields that ``user`` names."""

    def __init__(self, reply: str) -> None:
        super().__init__()
        self.reply = reply

    async def _read(self, request: Any) -> Any:
        call = await super()._read(request)
        for name in ("response_format", *call.body.get("user", "").split()):
            call.body.pop(name, None)
        return call


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """``both`` are two servers: the first breaks every form, the second keeps this one. ``bad`` is the first."""
    async with Deaf(BAD) as bad, Deaf(GOOD) as good:
        ends = [("bad", bad, ["bad", "both"]), ("good", good, ["both"])]
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path,
                "endpoint": [{"id": name, "base_url": fake.base_url} for name, fake, _ in ends],
                "model": [
                    {
                        "id": f"{name}/m",
                        "aliases": aliases,
                        "capabilities": ["chat", "tools", "json_schema"],
                        "source": {"kind": "upstream", "endpoint": name, "model": "fake-chat"},
                        "price": {"input": 1, "output": 2} if name == "bad" else {"input": 3, "output": 4},
                    }
                    for name, _, aliases in ends
                ],
            }
        )
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as asking,
        ):
            yield asking


async def ask(client: httpx.AsyncClient, path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "Say it."}]
    return await client.post(path, json={"model": "bad", "messages": messages, **fields})


@pytest.mark.parametrize("form", [STRICT, {"type": "json_object"}], ids=["strict", "object"])
async def test_a_whole_answer_without_its_form_is_no_answer(client: httpx.AsyncClient, form: Json) -> None:
    if form is STRICT:
        refused = await ask(client, response_format=form)
        assert (refused.status_code, refused.json()["error"]["code"]) == (502, "answer_invalid")
    else:
        assert (await ask(client, response_format=form)).status_code == 200
    loose = {**STRICT, "json_schema": {**STRICT["json_schema"], "strict": False}}
    assert (await ask(client, response_format=loose)).status_code == 200


DOORS: dict[str, Json] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Say it."}], "response_format": STRICT},
    "/v1/messages": {
        "messages": [{"role": "user", "content": "Say it."}],
        "max_tokens": 99,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    },
    "/v1/responses": {
        "input": "Say it.",
        "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}},
    },
}


@pytest.mark.parametrize("path", DOORS)
async def test_a_streamed_answer_without_its_form_ends_in_an_error(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, json={"model": "bad", "stream": True, **DOORS[path]})
    assert answer.status_code == 200
    assert "did not give its answer the form that the request asks for" in answer.text
    for whole in (
        "[DONE]",
        '"finish_reason":"stop"',
        "message_stop",
        '"stop_reason":"end_turn"',
        "response.completed",
    ):
        assert whole not in answer.text
    kept = await client.post(path, json={"model": "good/m", "stream": True, **DOORS[path]})
    assert 'error":{' not in kept.text
    assert any(end in kept.text for end in ("[DONE]", "message_stop", "response.completed"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "deaf"),
    [
        ("none", "tool_choice"),
        ("required", "tools tool_choice"),
        ({"type": "function", "function": {"name": "f"}}, "tools tool_choice"),
    ],
)
async def test_a_choice_of_tools_that_the_server_breaks_is_no_answer(
    client: httpx.AsyncClient, choice: Any, deaf: str, *, stream: bool
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    fields: Json = {"tools": [tool], "tool_choice": choice, "stream": stream}
    broken = await ask(client, user=deaf, **fields)
    assert broken.status_code == (200 if stream else 502)
    assert "answer_invalid" in broken.text
    assert "[DONE]" not in broken.text
    kept = await ask(client, **fields)
    assert kept.status_code == 200
    assert "answer_invalid" not in kept.text


async def test_another_candidate_gives_the_form_that_one_broke(client: httpx.AsyncClient) -> None:
    for _ in range(4):  # whichever comes first
        answer = await ask(client, model="both", response_format=STRICT)
        assert answer.json()["choices"][0]["message"]["content"] == GOOD


async def test_a_conversation_that_is_kept_at_anthropic_is_not_answered_without_it(
    client: httpx.AsyncClient,
) -> None:
    for thread in ({"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}):
        refused = await ask(client, "/v1/messages", max_tokens=9, thread=thread)
        assert refused.status_code == 400
        assert "thread" in refused.json()["error"]["message"]


async def test_the_older_name_of_a_form_is_the_form(client: httpx.AsyncClient) -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    refused = await ask(client, "/v1/messages", max_tokens=9, output_format=form)
    assert refused.status_code == 502


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_a_chats_own_fields_say_nothing_at_other_doors(client: httpx.AsyncClient, path: str) -> None:
    body: Json = {"model": "bad", "n": 3, "logprobs": True, "max_completion_tokens": 2}
    own: Json = {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    answer = await client.post(path, json={**body, **(own if path == "/v1/messages" else {"input": "Hi"})})
    assert answer.status_code == 200
    assert {"n", "logprobs", "max_completion_tokens"} <= set(answer.headers["x-roundhouse-dropped"].split(", "))


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_names_the_trace_that_tells_of_it(client: httpx.AsyncClient, *, stream: bool) -> None:
    refused = await ask(client, moderation={"model": "omni-moderation-latest"}, stream=stream)
    assert refused.status_code == 400
    trace = await client.get(f"/v1/traces/{refused.headers['x-roundhouse-trace']}")
    assert trace.json()["attempts"][0]["error"] == "unsupported_parameter"
    before = await ask(client, messages=5)
    assert "x-roundhouse-trace" not in before.headers


async def test_the_trace_of_a_refusal_does_not_repeat_what_was_asked(client: httpx.AsyncClient) -> None:
    asked: Json = {"messages": [{"role": "user", "content": "Zanzibar"}], "moderation": {"model": "omni"}}
    refused = await ask(client, **asked)
    told = (await client.get(f"/v1/traces/{refused.headers['x-roundhouse-trace']}")).json()
    error = refused.json()["error"]
    assert told["error"] == {"code": error["code"], "type": error["type"], "status": 400, "message": None}
    assert "Zanzibar" not in str(told)
    unfit = await ask(client, tools=[{"type": "function", "function": {"name": "f"}}], model="auto:local")
    told = (await client.get(f"/v1/traces/{unfit.headers['x-roundhouse-trace']}")).json()
    assert told["error"]["message"] == unfit.json()["error"]["message"], "the router's own words"
