"""The same request from each door reaches each provider in its SDK's types, and the tool's name comes back."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.backends.specs import of_anthropic, of_google, of_openai
from tests.conformance.features.doors import PICTURE
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.bedrock import REGION, FakeBedrock, held
from tests.fakes.google import FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import FakeServer

NAME = "forecast.of/the day"
NOTES = base64.b64encode(b"A note.").decode()
CITY: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ZIP: Json = {"type": "object", "properties": {"zip": {"type": "string"}}, "required": ["zip"]}
PARAMETERS: Json = {"type": "object", "anyOf": [CITY, ZIP]}
CAPABILITIES = ["chat", "tools", "parallel_tools", "json_schema", "reasoning", "vision"]
MODELS = {
    "claude": "claude-opus-4-8",
    "gemini": "gemini-3.5-flash",
    "gpt": "fake-chat",
    "nova": "us.amazon.nova-2-lite-v1:0",
}
KEYS = {name: f"ROUNDHOUSE_TEST_{name.upper()}_KEY" for name in MODELS}


def chat(model: str, *, answered: bool) -> Json:
    call = {"id": "c1", "type": "function", "function": {"name": NAME, "arguments": '{"city": "Bonn"}'}}
    file = {"file_data": f"data:text/plain;base64,{NOTES}", "filename": "notes.txt"}
    told: list[Json] = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]},
        {"role": "user", "content": "And now?"},
        {"role": "system", "content": "Be brief."},
    ]
    asked = {"role": "user", "content": [{"type": "text", "text": "Read."}, {"type": "file", "file": file}]}
    return {
        "model": model,
        "messages": [{"role": "system", "content": "S"}, asked, *(told if answered else ())],
        "tools": [{"type": "function", "function": {"name": NAME, "parameters": PARAMETERS}}],
        "reasoning_effort": "max",
        "max_completion_tokens": 20_000,
    }


def responses(model: str, *, answered: bool) -> Json:
    file = {"type": "input_file", "file_data": f"data:text/plain;base64,{NOTES}", "filename": "notes.txt"}
    told: list[Json] = [
        {"type": "function_call", "call_id": "c1", "name": NAME, "arguments": '{"city": "Bonn"}'},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [{"type": "input_image", "image_url": PICTURE}],
        },
        {"role": "user", "content": "And now?"},
        {"role": "developer", "content": "Be brief."},
    ]
    return {
        "model": model,
        "instructions": "S",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Read."}, file]},
            *(told if answered else ()),
        ],
        "tools": [{"type": "function", "name": NAME, "parameters": PARAMETERS, "strict": False}],
        "reasoning": {"effort": "max"},
        "max_output_tokens": 20_000,
    }


def messages(model: str, *, answered: bool) -> Json:
    call = {"type": "tool_use", "id": "c1", "name": NAME, "input": {"city": "Bonn"}}
    image = {"type": "base64", "media_type": "image/png", "data": PICTURE.partition(",")[2]}
    text = {"type": "text", "media_type": "text/plain", "data": "A note."}
    told: list[Json] = [
        {"role": "assistant", "content": [call]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "image", "source": image}]},
                {"type": "text", "text": "And now?"},
            ],
        },
        {"role": "system", "content": "Be brief."},
    ]
    asked = [{"type": "text", "text": "Read."}, {"type": "document", "source": text}]
    return {
        "model": model,
        "system": "S",
        "messages": [{"role": "user", "content": asked}, *(told if answered else ())],
        "tools": [{"name": NAME, "input_schema": PARAMETERS}],
        "output_config": {"effort": "max"},
        "max_tokens": 20_000,
    }


def of_converse(body: Json) -> None:
    held("ConverseStreamRequest", {**body, "modelId": "m"})


DOORS: dict[str, tuple[str, Callable[..., Json], Callable[[Json], Any]]] = {
    "chat": (
        "/v1/chat/completions",
        chat,
        lambda said: said["choices"][0]["message"]["tool_calls"][0]["function"]["name"],
    ),
    "responses": (
        "/v1/responses",
        responses,
        lambda said: next(item["name"] for item in said["output"] if item["type"] == "function_call"),
    ),
    "messages": (
        "/v1/messages",
        messages,
        lambda said: next(block["name"] for block in said["content"] if block["type"] == "tool_use"),
    ),
}
REGIONS = defaultdict[str, dict[str, str]](dict, bedrock={"region": REGION})
STREAM = ("stream", "stream_options")
CHECKS = {"claude": of_anthropic, "gemini": of_google, "gpt": of_openai, "nova": of_converse}


Asking = tuple[httpx.AsyncClient, dict[str, FakeServer]]


@pytest.fixture
async def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asking]:
    async with AsyncExitStack() as stack:
        claude = await stack.enter_async_context(FakeAnthropic())
        gemini = await stack.enter_async_context(FakeGoogle())
        gpt = await stack.enter_async_context(FakeOpenAI(key="sk-fake"))
        nova = await stack.enter_async_context(FakeBedrock())
        fakes: dict[str, FakeServer] = {"claude": claude, "gemini": gemini, "gpt": gpt, "nova": nova}
        ends = {
            "claude": ("anthropic", claude.origin, claude.key),
            "gemini": ("google", gemini.base_url, gemini.key),
            "gpt": ("openai", gpt.base_url, "sk-fake"),
            "nova": ("bedrock", nova.origin, nova.key),
        }
        for name, (_, _, key) in ends.items():
            monkeypatch.setenv(KEYS[name], key)
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path,
                "endpoint": [
                    {
                        "id": name,
                        "protocol": protocol,
                        "base_url": url,
                        "key_env": [KEYS[name]],
                        **REGIONS[protocol],
                    }
                    for name, (protocol, url, _) in ends.items()
                ],
                "model": [
                    {
                        "id": f"{name}/{model}",
                        "aliases": [name],
                        "capabilities": CAPABILITIES,
                        "source": {"kind": "upstream", "endpoint": name, "model": model},
                        "price": {"input": 1, "output": 2},
                    }
                    for name, model in MODELS.items()
                ],
            }
        )
        app = create_app(settings)
        await stack.enter_async_context(app.router.lifespan_context(app))
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost")
        yield await stack.enter_async_context(client), fakes


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("door", DOORS)
async def test_a_request_of_many_features_reaches_each_provider_from_each_door(
    asking: Asking, door: str, model: str
) -> None:
    client, fakes = asking
    path, request, name_of = DOORS[door]
    native = (door, model) == ("messages", "claude")  # passes as it is, and Anthropic refuses this name itself
    for answered in (False, True):
        response = await client.post(path, json=request(model, answered=answered))
        if native:
            assert (response.status_code, len(fakes[model].calls)) == (400, 1 + answered)
            continue
        assert response.status_code == 200, response.text
        body = fakes[model].calls[-1].body
        CHECKS[model]({name: value for name, value in body.items() if model != "gpt" or name not in STREAM})
        written = json.dumps(body)
        for thing in (
            "Read.",
            *(("Bonn", "And now?", "Be brief.", PICTURE.partition(",")[2]) if answered else ()),
        ):
            assert thing in written
        assert "A note." in written or NOTES in written
        if not answered:
            assert name_of(response.json()) == NAME
        dropped = response.headers.get("x-roundhouse-dropped", "")
        effort = {"gemini": "reasoning_effort", "nova": "reasoning_effort"}.get(model, "")
        moved = "messages.system" if answered and model in ("gemini", "nova") else ""
        assert set(filter(None, dropped.split(", "))) == set(filter(None, (effort, moved)))
