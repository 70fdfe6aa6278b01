"""Which requests are answered, by host, origin and size; and a long prompt does not block the event loop."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from backends.wire.chat import ChatRequest
from backends.wire.schema import bounded_schema, check_pattern
from catalog.errors import ConfigurationError
from routing.reading.requests import read_chat
from server.app import create_app
from server.edge.json_body import parse
from server.processes.run import tune_garbage_collector
from server.settings import Settings
from tests.security.conftest import CHAT, OpenSite, assert_error
from tests.work import counted_calls

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
    Settings.model_validate({"server": {"cors": {"origins": ["*"]}}})
    Settings.model_validate({"server": {"cors": {"origins": ["https://app.example"], "credentials": True}}})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('[server]\nhost = "0.0.0.0"\n', "Refusing to serve on 0.0.0.0 without API keys"),
        ('[server]\nadmin_host = "0.0.0.0"\nadmin_port = 0\n', "Refusing to serve on 0.0.0.0 without API keys"),
        ('[server.cors]\norigins = ["*"]\ncredentials = true\n', "lets any web page act as its visitor"),
        ('api_keys = ["written-here"]\n', "Keys do not belong in the settings file"),
    ],
    ids=["open address", "open administration", "any origin", "keys in the file"],
)
def test_the_command_says_in_one_line_why_it_does_not_start(tmp_path: Path, settings: str, said: str) -> None:
    (tmp_path / "roundhouse.toml").write_text(settings)
    ended = subprocess.run(
        [sys.executable, "-m", "server.cli", "serve", "--port", "0"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ROUNDHOUSE_DATA_DIR": str(tmp_path / "data")},
    )  # fmt: skip
    assert ended.returncode == 1
    assert said in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert "written-here" not in ended.stderr + ended.stdout


async def test_only_names_of_this_server_are_answered(site: OpenSite) -> None:
    """Other names are refused, before keys are checked: a web page could use its own (DNS rebinding)."""
    async with site(server={"allowed_hosts": ["llm.example", "*.lan"]}) as running:
        for host in (
            "evil.example",
            "llm.example.evil.example",
            "lan",
            "127.0.0.1.nip.io",
            "10.0.0.7",
            "[::2]",
            "",
        ):
            for path in ("/v1/models", "/health", "/metrics"):
                answer = await running.client.get(path, headers={"host": host})
                assert_error(answer, 403, "permission_denied")
        for host in ("localhost", "127.0.0.1:8000", "[::1]", "llm.example", "LLM.EXAMPLE:80", "box.lan"):
            assert (await running.client.get("/v1/models", headers={"host": host})).status_code == 200


async def test_no_web_page_may_read_answers_unless_its_origin_is_named(site: OpenSite) -> None:
    asking = {"origin": "https://app.example", "access-control-request-method": "POST"}
    async with site() as running:
        for method, path in (("GET", "/v1/models"), ("OPTIONS", "/v1/chat/completions")):
            answer = await running.client.request(method, path, headers=asking)
            assert not [name for name in answer.headers if name.startswith("access-control")]
    async with site(server={"cors": {"origins": ["https://app.example"]}}) as running:
        named = await running.client.get("/v1/models", headers=asking)
        assert named.headers["access-control-allow-origin"] == "https://app.example"
        for origin in ("https://evil.example", "null", "https://app.example.evil.example", "http://app.example"):
            other = await running.client.get("/v1/models", headers={"origin": origin})
            assert "access-control-allow-origin" not in other.headers


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


@pytest.fixture
def settled() -> Iterator[None]:
    """Set the garbage collector as a gateway does: it does not traverse the objects of start-up."""
    thresholds = gc.get_threshold()
    tune_garbage_collector()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@contextmanager
def largest_round(measure: Callable[[], float]) -> Iterator[list[float]]:
    """The largest growth of ``measure`` in one round of the event loop; filled at the end of the block."""
    grown: list[float] = []
    largest: list[float] = []

    async def tick() -> None:
        while True:
            before = measure()
            await asyncio.sleep(0)
            grown.append(measure() - before)

    ticking = asyncio.create_task(tick())
    try:
        yield largest
    finally:
        ticking.cancel()
        largest.append(max(grown))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("messages", [1, 1000])
async def test_a_long_prompt_holds_the_loop_for_a_bounded_number_of_calls_and_passes_over_it(
    site: OpenSite, messages: int
) -> None:
    """Bounds one round of the loop: function calls by the number of messages, and processor time by thirty times
    that of decoding the body. Processor time excludes other processes and includes this one's other threads, which
    may hold the interpreter.
    """
    text = "The quick brown fox jumps over the lazy dog. " * (1_000_000 // 45 // messages)
    body = {"model": "near", "messages": [{"role": "user", "content": text}] * messages}
    content = httpx.Request("POST", "http://x", json=body).content
    assert len(content) > 900_000

    async with site() as running:

        async def ask() -> None:
            explained = await running.client.post("/v1/route", content=content, headers=JSON)
            answered = await running.client.post("/v1/chat/completions", content=content, headers=JSON)
            assert (explained.status_code, answered.status_code) == (200, 200)

        await ask()
        with counted_calls() as calls, largest_round(lambda: calls.number) as most:
            await ask()
        assert most[0] <= 2_000 + 50 * messages
        ratios = []
        for _ in range(5):
            with largest_round(time.process_time) as longest:
                await ask()
            began = time.process_time()
            for _ in range(10):
                json.loads(content)
            ratios.append(10 * longest[0] / (time.process_time() - began))
    assert min(ratios) <= 30, ratios
    assert read_chat(parse(ChatRequest, content)).prompt_tokens > 100_000
