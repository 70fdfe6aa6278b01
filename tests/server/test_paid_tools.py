"""A limit on cost counts the tools that a provider runs for money, or refuses the request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from backends.openai.responses.stream import _usage
from catalog.model import Price
from catalog.types import Json
from routing.accounts.costs import cost_of
from routing.calling.watching.usage import token_usage
from server.app import create_app
from server.settings import Settings
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI

KEY_ENV = "ROUNDHOUSE_TEST_ANTHROPIC_KEY"
SEARCH: Json = {"type": "web_search_20250305", "name": "web_search"}
FETCH: Json = {"type": "web_fetch_20250910", "name": "web_fetch"}
CODE: Json = {"type": "code_interpreter", "container": {"type": "auto"}}
SHELL: Json = {"type": "shell", "environment": {"type": "container_auto"}}


@pytest.fixture
async def gpt() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def claude() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


@pytest.fixture
async def client(
    gpt: FakeOpenAI, claude: FakeAnthropic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv(KEY_ENV, claude.key)
    names = {"gpt": "fake-chat", "claude": "claude-sonnet-5"}
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "endpoint": [
                {"id": "gpt", "protocol": "openai", "base_url": gpt.base_url, "wire": "responses"},
                {"id": "claude", "protocol": "anthropic", "base_url": claude.origin, "key_env": [KEY_ENV]},
            ],
            "model": [
                {
                    "id": f"{name}/x",
                    "aliases": [name],
                    "capabilities": ["chat", "tools", "web_search"],
                    "source": {"kind": "upstream", "endpoint": name, "model": model},
                    "price": {"input": 1, "output": 2, "web_search": 10, "container": 0.03},
                }
                for name, model in names.items()
            ],
        }
    )
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as asking,
    ):
        yield asking


async def respond(client: httpx.AsyncClient, most: float, *tools: Json, **fields: object) -> httpx.Response:
    body = {"model": "gpt", "input": "Hi", "tools": tools, "routing": {"max_cost": most}, **fields}
    return await client.post("/v1/responses", json=body)


async def message(client: httpx.AsyncClient, most: float, *tools: Json, **fields: object) -> httpx.Response:
    body = {"model": "claude", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    return await client.post("/v1/messages", json={**body, "routing": {"max_cost": most}, **fields})


@pytest.mark.parametrize("tool", [CODE, SHELL])
async def test_a_container_counts_for_max_cost(client: httpx.AsyncClient, gpt: FakeOpenAI, tool: Json) -> None:
    refused = await respond(client, 0.02, tool)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "routing.max_cost")
    assert not gpt.calls
    assert (await respond(client, 0.05, tool)).status_code == 200


@pytest.mark.parametrize("kind", ["image_generation", "file_search", "mcp", "one_of_tomorrow"])
async def test_a_tool_of_unknown_cost_is_refused_under_max_cost(
    client: httpx.AsyncClient, gpt: FakeOpenAI, kind: str
) -> None:
    refused = await respond(client, 1, {"type": kind})
    assert refused.status_code == 400
    assert kind in refused.json()["error"]["message"]
    assert not gpt.calls


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [FETCH]},
        {"tools": [{**FETCH, "defer_loading": True}]},
        {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]},
        {"mcp_servers": [{"type": "url", "name": "m", "url": "https://m"}]},
        {"fallbacks": [{"model": "claude-opus-5"}]},
    ],
)
async def test_what_anthropic_runs_at_unknown_cost_is_refused_under_max_cost(
    client: httpx.AsyncClient, claude: FakeAnthropic, fields: Json
) -> None:
    refused = await message(client, 1, **fields)
    assert refused.status_code == 400, refused.text
    assert not claude.calls


@pytest.mark.parametrize(
    ("item", "cost", "unknown"),
    [
        ({"type": "image_generation_call"}, 0, ("image_generation",)),
        ({"type": "file_search_call"}, 0, ("file_search",)),
        (
            {"type": "shell_call", "environment": {"type": "container_reference", "container_id": "c"}},
            30_000_000,
            (),
        ),
        ({"type": "shell_call", "environment": {"type": "local"}}, 0, ()),
    ],
)
def test_what_a_provider_ran_is_booked_or_named(item: Json, cost: int, unknown: tuple[str, ...]) -> None:
    told = _usage({"input_tokens": 1, "output_tokens": 1}, {"output": [item]})
    used = token_usage(told)
    assert used is not None
    booked = cost_of(Price(input=1, output=2, container=0.03), used)
    assert (booked.nano, booked.unknown_parts) == (cost + 3_000, unknown)


async def test_a_provider_that_is_not_sent_the_tool_may_answer_under_max_cost(client: httpx.AsyncClient) -> None:
    answer = await respond(client, 0.001, CODE, model="claude")
    assert answer.status_code == 200, answer.text


async def test_the_callers_bound_on_searches_is_what_max_cost_counts(client: httpx.AsyncClient) -> None:
    assert (await message(client, 0.09, {**SEARCH, "max_uses": 100})).status_code == 400
    assert (await message(client, 0.03, {**SEARCH, "max_uses": 1})).status_code == 200
    assert (await respond(client, 0.03, {"type": "web_search"}, max_tool_calls=1)).status_code == 200
    assert (
        await respond(client, 0.03, {"type": "web_search"}, max_tool_calls=1, model="claude")
    ).status_code == 200


async def test_searches_without_a_bound_get_one_under_max_cost(
    client: httpx.AsyncClient, claude: FakeAnthropic, gpt: FakeOpenAI
) -> None:
    assert (await message(client, 0.03, SEARCH)).status_code == 400
    assert (await message(client, 0.1, SEARCH)).status_code == 200
    assert claude.calls[-1].body["tools"][0]["max_uses"] == 5
    assert (await respond(client, 0.1, {"type": "web_search"})).status_code == 200
    assert gpt.calls[-1].body["max_tool_calls"] == 5
