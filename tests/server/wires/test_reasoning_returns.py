"""Reasoning and signatures come back through the Responses API to the model that gave them, and to no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from aiohttp import web

from backends.streams.sealing import stamped, unstamped
from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.fakes import anthropic, google, openai_responses
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.google import FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_chat import chat_chunks
from tests.fakes.openai_responses import ENCRYPTED
from tests.fakes.server import Call

THOUGHT = "They want the weather."
WEATHER: Json = {
    "type": "function", "name": "weather", "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}  # fmt: skip
ASK: Json = {
    "tools": [WEATHER], "reasoning": {"effort": "high", "summary": "auto"}, "store": False,
    "include": ["reasoning.encrypted_content"],
}  # fmt: skip
QUESTION: Json = {"role": "user", "content": "How is Paris?"}
KNOWN = {
    "reasoning": {"type", "id", "summary", "encrypted_content"},
    "function_call": {"type", "id", "status", "call_id", "name", "namespace", "arguments"},
    "message": {"type", "id", "status", "role", "content"},
}
"""The fields that Codex gives back of an item."""


class DeepSeek(FakeOpenAI):
    """Thinks before it answers, in plain text, and refuses results of tools without the thought of their call."""

    async def chat(self, request: web.Request, call: Call) -> web.StreamResponse:
        for message in call.body["messages"]:
            if message.get("tool_calls") and not message.get("reasoning_content"):
                return self.refused(call, 400, "Missing `reasoning_content` field in the assistant message.")
        chunks = list(chat_chunks(call.body, self.answer(call)))
        for piece in ("They want ", "the weather."):
            thought = {**chunks[0]["choices"][0], "delta": {"reasoning_content": piece}}
            chunks.insert(1 if piece.startswith("They") else 2, {**chunks[0], "choices": [thought]})
        return await self.stream(request, call, self._events(iter(chunks)))


class Stand(NamedTuple):
    claude: FakeAnthropic
    gemini: FakeGoogle
    deepseek: DeepSeek
    gpt: FakeOpenAI
    other: FakeOpenAI
    client: httpx.AsyncClient

    async def ask(self, model: str, items: list[Json]) -> httpx.Response:
        response = await self.client.post("/v1/responses", json={**ASK, "model": model, "input": items})
        assert response.status_code == 200, response.text
        return response

    async def first_turn(self, model: str) -> list[Json]:
        """The conversation after a call, with the fields of items that Codex knows, and the call's result."""
        output = (await self.ask(model, [QUESTION])).json()["output"]
        kept = [{name: item[name] for name in item.keys() & KNOWN[item["type"]]} for item in output]
        results = [
            {"type": "function_call_output", "call_id": item["call_id"], "output": "Sunny."}
            for item in kept
            if item["type"] == "function_call"
        ]
        assert results
        return [QUESTION, *kept, *results]


@pytest.fixture
async def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stand]:
    async with (
        FakeAnthropic() as claude, FakeGoogle() as gemini, DeepSeek() as deepseek, FakeOpenAI() as gpt,
        FakeOpenAI() as other,
    ):  # fmt: skip
        ends = {
            "claude": ("anthropic", claude.origin, claude.key, "claude-sonnet-5"),
            "gemini": ("google", gemini.base_url, gemini.key, "gemini-3.5-flash"),
            "deepseek": ("openai", deepseek.base_url, "none", "fake-chat"),
            "gpt": ("openai", gpt.base_url, "none", "fake-chat"),
            "other": ("openai", other.base_url, "none", "fake-chat"),
        }
        for name, (_, _, key, _) in ends.items():
            monkeypatch.setenv(f"ROUNDHOUSE_TEST_{name.upper()}_KEY", key)
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path,
                "endpoint": [
                    {
                        "id": f"at-{name}", "protocol": kind, "base_url": url,
                        "key_env": [f"ROUNDHOUSE_TEST_{name.upper()}_KEY"],
                    }
                    for name, (kind, url, _, _) in ends.items()
                ],
                "model": [
                    {
                        "id": name,
                        "capabilities": ["chat", "tools", "reasoning"],
                        "source": {"kind": "upstream", "endpoint": f"at-{name}", "model": model},
                        "wire": "responses" if name in ("gpt", "other") else "chat",
                    }
                    for name, (_, _, _, model) in ends.items()
                ],
            }
        )  # fmt: skip
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client,
        ):
            yield Stand(claude, gemini, deepseek, gpt, other, client)


async def test_a_signed_thought_comes_back_to_claude(stand: Stand) -> None:
    await stand.ask("claude", await stand.first_turn("claude"))
    block = stand.claude.calls[-1].body["messages"][1]["content"][0]
    assert (block["type"], block["signature"]) == ("thinking", anthropic.SIGNATURE)


async def test_the_signature_of_a_call_comes_back_to_gemini(stand: Stand) -> None:
    await stand.ask("gemini", await stand.first_turn("gemini"))
    (called,) = stand.gemini.calls[-1].body["contents"][1]["parts"]
    assert called["thoughtSignature"] == google.SIGNATURE


async def test_a_plain_thought_comes_back_to_the_model_that_wants_it(stand: Stand) -> None:
    turns = await stand.first_turn("deepseek")
    answer = await stand.ask("deepseek", turns)
    assert stand.deepseek.calls[-1].body["messages"][1]["reasoning_content"] == THOUGHT
    assert "input.reasoning" not in answer.headers.get("x-roundhouse-dropped", "")


async def test_an_encrypted_thought_comes_back_to_its_endpoint_as_it_was(stand: Stand) -> None:
    turns = await stand.first_turn("gpt")
    await stand.ask("gpt", turns)
    (sent,) = [item for item in stand.gpt.calls[-1].body["input"] if item.get("type") == "reasoning"]
    assert sent["encrypted_content"] == ENCRYPTED
    streamed = await stand.client.post(
        "/v1/responses", json={**ASK, "model": "gpt", "input": turns, "stream": True}
    )
    assert stamped(ENCRYPTED, "at-gpt") in streamed.text
    assert f'"{ENCRYPTED}"' not in streamed.text


@pytest.mark.parametrize("first", ["claude", "gemini", "deepseek", "gpt"])
async def test_a_thought_never_goes_to_another_model(stand: Stand, first: str) -> None:
    turns = await stand.first_turn(first)
    signs = (anthropic.SIGNATURE, google.SIGNATURE, ENCRYPTED, "thinking_blocks", "reasoning_content")
    secrets = (*signs, THOUGHT, anthropic.THOUGHT, google.THOUGHT, openai_responses.THOUGHT)
    fakes: dict[str, Any] = {
        "claude": stand.claude, "gemini": stand.gemini, "gpt": stand.gpt, "other": stand.other,
    }  # fmt: skip
    for second in fakes.keys() - {first}:
        answer = await stand.ask(second, turns)
        sent = str(fakes[second].calls[-1].body)
        assert not [secret for secret in secrets if secret in sent], second
        assert "reasoning" in answer.headers["x-roundhouse-dropped"], second


async def test_a_thought_of_a_direct_conversation_with_openai_is_passed_on(stand: Stand) -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA-direct"}
    await stand.ask("gpt", [QUESTION, thought, {"role": "assistant", "content": "Hm."}, QUESTION])
    assert stand.gpt.calls[-1].body["input"][1] == thought


def test_a_stamp_is_taken_off_and_a_broken_one_is_no_endpoints() -> None:
    assert unstamped(stamped("gAAA.b", "a b")) == ("a b", "gAAA.b")
    assert unstamped("gAAAA") == (None, "gAAAA")
    assert unstamped(None) == (None, None)
    assert unstamped("rho.%%%.x")[0] == ""
