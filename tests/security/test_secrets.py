"""Searches all output and storage of a gateway for planted keys and a planted prompt.

The gateway is a process of its own, at debug level, with traces going to a collector. It answers and refuses
requests, its provider fails in every way, and its workers are killed in mid-answer; meanwhile the machine's
process list is read.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.faults.gateway import FAKE
from tests.faults.serving import Gateway, client, serving, soon, upstream_row

PROVIDER_KEY = "sk-planted-provider-key-0123456789abcdef"
CALLER = "planted-caller-key-zyxwvutsrqponm"
ADMIN = "planted-admin-key-zyxwvutsrqponm"
PROMPT = "planted-prompt-marker-qwertzuiop"
KEYS = (PROVIDER_KEY, PROVIDER_KEY[3:], CALLER, ADMIN)
ENVIRONMENT = {"PLANTED_PROVIDER": PROVIDER_KEY, "PLANTED_CALLER": CALLER, "PLANTED_ADMIN": ADMIN}
AS_CALLER, AS_ADMIN = {"authorization": f"Bearer {CALLER}"}, {"authorization": f"Bearer {ADMIN}"}
ECHO = f"Oops: {PROVIDER_KEY} was sent with {PROMPT}."
"""A provider's message may quote the prompt, so only its caller may receive it."""
FAULTS = (
    Fault(),
    Fault(status=400, message=ECHO),
    Fault(status=401, message=f"Incorrect API key provided: {PROVIDER_KEY}."),
    Fault(status=500, message=ECHO),
    Fault(status=503, message=ECHO, content_type="text/html"),
    Fault(malformed_after=1),
    Fault(die_after=1),
    Fault(bad_json=True),
)


@dataclass
class Seen:
    """Output of the gateway: ``answers`` to the caller of the prompt, and the output that others can read."""

    answers: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A collector of traces: its address, and the file of the spans received."""
    file = tmp_path / "spans.jsonl"
    file.touch()
    command = [sys.executable, "-m", "tests.fakes.collector", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}", file
        finally:
            process.terminate()


@asynccontextmanager
async def planted(
    folder: Path, *, prompts: bool = False, **sections: Any
) -> AsyncIterator[tuple[Gateway, FakeOpenAI]]:
    """A gateway at debug level with the keys in its environment, a worker ``near`` and a provider's ``far``."""
    near = {
        "id": "near", "capabilities": ["chat"], "engine": "fake", "size": {"memory": 1_000_000},
        "source": {"kind": "path", "path": str(FAKE)},
    }  # fmt: skip
    async with FakeOpenAI(key=PROVIDER_KEY) as provider:
        settings = {
            "model": [near, upstream_row("far", "cloud")],
            "endpoint": [{"id": "cloud", "base_url": provider.base_url, "key_env": ["PLANTED_PROVIDER"]}],
            "log": {"level": "debug", "format": "json", "prompts": prompts},
            "api_keys_env": "PLANTED_CALLER",
            "admin_keys_env": "PLANTED_ADMIN",
            **sections,
        }
        with serving(folder, environment=ENVIRONMENT, **settings) as gateway:
            yield gateway, provider


def chat(model: str, *, stream: bool = False, **switches: Any) -> dict[str, Any]:
    """A chat with the prompt planted in it; a worker's switches are in its last message."""
    first = {"role": "system", "content": PROMPT}
    last = {"role": "user", "content": json.dumps({**switches, "name": PROMPT}) if switches else PROMPT}
    return {"model": model, "stream": stream, "messages": [first, last], "user": PROMPT}


def process_list(gateway: Gateway) -> str:
    """Every process's command line, and the environment of those that the gateway started."""
    lines = []
    for process in psutil.process_iter():
        try:
            lines.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    children = psutil.Process(gateway.pid).children(recursive=True)
    assert children, "no worker runs, so no worker was looked at"
    for child in children:
        try:
            lines.append(repr(child.environ()))
        except psutil.Error:
            continue
    return "\n".join(lines)


class Caller:
    """Sends requests and records the answers."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.traces: list[str] = []

    async def __call__(self, body: dict[str, Any], headers: dict[str, str] = AS_CALLER) -> tuple[int, str]:
        async with self._session.post("/v1/chat/completions", json=body, headers=headers) as response:
            if trace := response.headers.get("x-roundhouse-trace"):
                self.traces.append(trace)
            head = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
            return response.status, f"{head}\n\n{await response.text()}"


async def test_what_was_planted_is_found_nowhere(tmp_path: Path, collector: tuple[str, Path]) -> None:
    address, spans = collector
    seen = Seen()
    echoed: list[str] = []
    async with (
        planted(tmp_path, telemetry={"endpoint": address}) as (gateway, provider),
        client(gateway) as session,
    ):
        ask = Caller(session)
        for fault in FAULTS:
            for stream in (False, True):
                provider.script(fault, fault)
                _, text = await ask(chat("far", stream=stream))
                (echoed if fault.message else seen.answers).append(text)

        status, text = await ask(chat("near"))
        assert status == 200
        seen.kept["processes"] = process_list(gateway)
        for stream in (False, True):
            for switches in ({"die_at": 0}, {"die_at": 2}, {"malformed_at": 1}, {"cut_at": 1}, {"status": 500}):
                status, text = await ask(chat("near", stream=stream, **switches))
                assert status >= 500 or '"error"' in text, (switches, text)
                seen.answers.append(text)
        assert gateway.log("worker died"), "no worker crashed, so no crash was looked at"

        for bad in (
            {**chat("near"), "temperature": PROMPT},
            {**chat("near"), PROMPT: [[[]]], "stop": [PROMPT] * 65},
            {**chat("near"), "tools": [{"type": PROMPT}]},
            {**chat("near"), "response_format": {"type": "json_schema", "json_schema": {"name": PROMPT * 9}}},
        ):
            status, text = await ask(bad)
            assert 400 <= status < 500
            seen.answers.append(text)
        for wrong in (CALLER + "x", CALLER[:-1], PROVIDER_KEY):
            status, text = await ask(chat("near"), {"authorization": f"Bearer {wrong}"})
            assert status == 401
            seen.answers.append(text)

        places = [
            "/metrics",
            "/v1/usage",
            "/v1/usage?format=csv",
            "/v1/models",
            "/v1/models/far",
            "/v1/admin/workers",
        ]
        places += ["/v1/admin/workers/near/log", "/openapi.json", *(f"/v1/traces/{trace}" for trace in ask.traces)]
        for place in places:
            async with session.get(place, headers=AS_ADMIN) as response:
                seen.kept[place] = await response.text()
        assert seen.kept["/metrics"].count("roundhouse_errors_total{")
        assert len(ask.traces) > 3
    # The collector has the last spans once the gateway has ended.
    seen.kept["spans"] = spans.read_text()
    assert seen.kept["spans"].count("SPAN_KIND_CLIENT") > len(FAULTS)
    searched = [file for file in tmp_path.rglob("*") if file.is_file()]  # noqa: ASYNC240
    assert {"gateway.log", "state.sqlite3", "near.log"} <= {file.name for file in searched}
    seen.kept |= {str(file): file.read_bytes().decode("utf-8", "replace") for file in searched}
    assert '"level":"debug"' in seen.kept[str(gateway.log_file)]

    for key in KEYS:
        assert not [text for text in (*seen.answers, *echoed) if key in text]
    assert not [text for text in seen.answers if PROMPT in text]
    assert not [
        (place, secret) for secret in (*KEYS, PROMPT) for place, text in seen.kept.items() if secret in text
    ]


@pytest.mark.parametrize("prompts", [False, True])
async def test_prompts_are_written_only_when_the_setting_says_so(tmp_path: Path, prompts: bool) -> None:
    async with planted(tmp_path, prompts=prompts) as (gateway, _), client(gateway) as session:
        ask = Caller(session)
        for body in (chat("near"), chat("far", stream=True), {**chat("near"), "temperature": 9}):
            await ask(body)
        form = aiohttp.FormData({"model": "near", "prompt": PROMPT})
        form.add_field("file", b"no audio", filename="a.wav")
        async with session.post("/v1/audio/transcriptions", data=form, headers=AS_CALLER) as response:
            assert response.status == 400
        await soon(lambda: len(gateway.log("request")) == 4, within=5)
    written = gateway.log_file.read_text()
    assert len([line for line in written.splitlines() if PROMPT in line]) == (4 if prompts else 0)
    assert len(gateway.log("request body")) == (4 if prompts else 0)
    for key in KEYS:
        assert key not in written
