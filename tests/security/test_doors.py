"""Who is answered at all: Hosts, origins, sizes; and that counting a long prompt keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import gzip
import time
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from backends.wire.chat import ChatRequest
from backends.wire.schema import bounded_schema, check_pattern
from catalog.errors import ConfigurationError
from routing.read import read_chat
from server.app import create_app
from server.errors import parse
from server.settings import Settings
from tests.security.conftest import CHAT, OpenSite, assert_error

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_an_open_address_without_keys_does_not_start(host: str, tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match="Refusing to serve"):
        create_app(Settings.model_validate({"server": {"host": host}, "data_dir": tmp_path}))
    admin = {"admin_host": host, "admin_port": 9000}
    with pytest.raises(ConfigurationError, match="Refusing to serve"):
        create_app(Settings.model_validate({"server": admin, "data_dir": tmp_path}))


def test_any_origin_with_credentials_does_not_start() -> None:
    with pytest.raises(ValidationError, match="any web page"):
        Settings.model_validate({"server": {"cors": {"origins": ["*"], "credentials": True}}})


async def test_bodies_are_counted_while_they_come(site: OpenSite) -> None:
    async with site(server={"limits": {"body_bytes": 10_000}}) as running:
        path = "/v1/chat/completions"

        async def endless() -> Any:
            for _ in range(200):
                yield b" " * 1000

        assert_error(await running.client.post(path, content=endless(), headers=JSON), 413, "payload_too_large")
        assert_error(
            await running.client.post(path, content=b" " * 20_000, headers=JSON), 413, "payload_too_large"
        )
        packed = gzip.compress(b" " * 10_000_000)
        answer = await running.client.post(path, content=packed, headers={**JSON, "content-encoding": "gzip"})
        assert_error(answer, 415)
        assert (await running.client.post(path, json=CHAT)).status_code == 200


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*", "(a{1000}){1000}", r"(a)\1", "(", "x" * 1001, "(.|a)+", "[a"]
)
def test_patterns_that_could_take_for_ever_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", [r"^\d{4}-\d{2}$", r"^([a-z0-9]+-)*[a-z0-9]+$", r"^(yes|no)$", r"[^\]]+", r"\$\{"]
)
def test_patterns_of_everyday_are_taken(pattern: str) -> None:
    check_pattern(pattern)


def test_schemas_are_bounded() -> None:
    deep: dict[str, Any] = {}
    for _ in range(70):
        deep = {"properties": {"a": deep}}
    wide = {"enum": list(range(20_000))}
    for schema in (deep, wide, {"description": "x" * 600_000}):
        with pytest.raises(ValueError, match="schema"):
            bounded_schema(schema)


@pytest.mark.parametrize("messages", [1, 1000])
async def test_a_long_prompt_holds_the_loop_for_at_most_50_ms(site: OpenSite, messages: int) -> None:
    """Processor time between two turns of the gateway's own loop: what it is, however busy the machine."""
    text = "The quick brown fox jumps over the lazy dog. " * (1_000_000 // 45 // messages)
    body = {"model": "near", "messages": [{"role": "user", "content": text}] * messages}
    content = httpx.Request("POST", "http://x", json=body).content
    assert len(content) > 900_000
    turns: list[float] = []

    async def tick() -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            turns.append(time.thread_time() - began)

    async with site() as running:
        await running.client.post("/v1/chat/completions", json=CHAT)
        ticking = asyncio.create_task(tick())
        answers = [
            await running.client.post("/v1/route", content=content, headers=JSON),
            await running.client.post("/v1/chat/completions", content=content, headers=JSON),
        ]
        ticking.cancel()
    assert answers[0].status_code == 200
    assert answers[1].status_code < 500
    assert max(turns) <= 0.050, f"the loop was held for {max(turns) * 1000:.1f} ms"
    assert read_chat(parse(ChatRequest, content)).prompt_tokens > 100_000
