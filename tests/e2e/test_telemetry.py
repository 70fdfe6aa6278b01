"""Traces of a gateway process, with a collector in a process of its own and without one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.serving import free_port, served

Span = dict[str, Any]


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A collector: its address, and the file of the spans received."""
    file = tmp_path / "spans.jsonl"
    file.touch()
    command = [sys.executable, "-m", "tests.fakes.collector", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}", file
        finally:
            process.terminate()


def ask(url: str) -> httpx.Response:
    """Send a request that fails because its upstream does not exist."""
    body = {"model": "absent/chat", "messages": [{"role": "user", "content": "planted-prompt"}]}
    with httpx.Client(trust_env=False, timeout=30) as client:
        return client.post(f"{url}/v1/chat/completions", json=body)


def configure(folder: Path, telemetry: str) -> Path:
    """Make a folder with settings: one row at an address without a listener."""
    folder.mkdir()
    (folder / "roundhouse.toml").write_text(
        f"""
        [telemetry]
        endpoint = "{telemetry}"
        service_name = "here"
        [[endpoint]]
        id = "absent"
        base_url = "http://127.0.0.1:{free_port()}/v1"
        [[model]]
        id = "absent/chat"
        capabilities = ["chat"]
        source = {{ kind = "upstream", endpoint = "absent", model = "chat" }}
        """
    )
    return folder


def test_a_collector_receives_the_spans_before_the_gateway_has_stopped(
    tmp_path: Path, collector: tuple[str, Path]
) -> None:
    address, file = collector
    folder = configure(tmp_path / "here", address)
    with served(folder, environment={"ROUNDHOUSE_DATA_DIR": str(folder / "data")}) as gateway:
        answer = ask(gateway.url)
    assert answer.status_code >= 500
    text = file.read_text()
    spans: list[Span] = [json.loads(line) for line in text.splitlines()]
    (server,) = [span for span in spans if span["kind"] == "SPAN_KIND_SERVER"]
    attempts = [span for span in spans if span["kind"] == "SPAN_KIND_CLIENT"]
    assert attempts
    assert all(span["parentSpanId"] == server["spanId"] for span in attempts)
    assert all(span["status"]["code"] == "STATUS_CODE_ERROR" for span in spans)
    names = {one["key"]: one["value"] for one in server["resource"]}
    assert names["service.name"] == {"stringValue": "here"}
    assert "planted-prompt" not in text


def test_without_a_collector_the_gateway_answers_and_stops_in_time(tmp_path: Path) -> None:
    folder = configure(tmp_path / "here", f"http://127.0.0.1:{free_port()}")
    with served(folder, environment={"ROUNDHOUSE_DATA_DIR": str(folder / "data")}) as gateway:
        assert ask(gateway.url).json()["error"]["code"]
        gateway.process.terminate()
        gateway.process.wait(30)
    assert gateway.process.returncode == 0
    assert "telemetry" in gateway.log.read_text().lower()
