"""A gateway starts, answers each kind of request once, and stops.

``make lowest`` runs this file with ``ROUNDHOUSE_PYTHON`` set to an environment of the oldest versions that
pyproject.toml allows. The fakes and the client stay in the environment of the tests.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.providers import endpoint, model, providers
from tests.e2e.serving import Served, eventually, served
from tests.fakes import collector
from tests.fakes.openai import FakeOpenAI

PYTHON = os.environ.get("ROUNDHOUSE_PYTHON", sys.executable)
CHAT = {"model": "remote", "messages": [{"role": "user", "content": "Say something."}]}


@contextmanager
def traces(file: Path) -> Iterator[str]:
    """A collector's address; what it receives is in ``file``."""
    file.touch()
    with ThreadingHTTPServer(("127.0.0.1", 0), collector.handler(file)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOpenAI]:
    fake = FakeOpenAI()
    with providers(fake):
        yield fake


def settings(fake: FakeOpenAI, *, telemetry: str = "", state: str = "") -> str:
    """Rows of the fake, called by a name that the gateway has to look up."""
    at_name = endpoint("fake", fake).replace("127.0.0.1", "localhost")
    rows = [
        f'[telemetry]\nendpoint = "{telemetry}"\n' if telemetry else "",
        f'[state]\nurl = "{state}"\n' if state else "",
        at_name,
        model("remote", "fake-chat", at="fake"),
        model("whisper", "whisper-1", at="fake", capabilities=["transcribe"]),
    ]
    return "\n".join(rows)


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("collector") / "spans"


@pytest.fixture(scope="module")
def gateway(fake: FakeOpenAI, spans: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One process, SQLite, traces; the models in the user's data folder."""
    folder = tmp_path_factory.mktemp("gateway")
    with traces(spans) as address:
        (folder / "roundhouse.toml").write_text(settings(fake, telemetry=address))
        with served(folder, python=PYTHON) as running:
            yield running


@pytest.fixture
def client(gateway: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as client:
        yield client


def command(*arguments: str) -> str:
    done = subprocess.run([PYTHON, "-m", "server.cli", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def events(text: str) -> list[Any]:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(line) for line in data[:-1]]


def stop(server: Served) -> int:
    server.process.send_signal(signal.SIGTERM)
    return server.process.wait(20)


def unhappy(server: Served) -> list[str]:
    """Lines of the log that tell of an error of the server's own."""
    lines = server.log.read_text().splitlines()
    return [line for line in lines if "Traceback" in line or "[error" in line or "[critical" in line]


def test_the_command_line_prints_its_help_and_its_tables() -> None:
    assert "serve" in command("--help")
    assert "--requests-per-minute" in command("keys", "create", "--help")
    assert "smollm2-135m-instruct" in command("list", "--all")
    assert command("version").count(".") == 2


def test_it_is_alive_ready_and_lists_its_models(client: httpx.Client) -> None:
    assert client.get("/health").status_code == 200
    assert client.get("/ready").json() == {"status": "ready"}
    assert {"auto", "remote", "whisper"} <= {row["id"] for row in client.get("/v1/models").json()["data"]}


def test_it_describes_itself_in_openapi(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["$ref"].rpartition("/")[2] in document["components"]["schemas"]


def test_a_chat_is_answered_whole(client: httpx.Client, fake: FakeOpenAI) -> None:
    answer = client.post("/v1/chat/completions", json=CHAT)
    assert answer.json()["choices"][0]["message"]["content"] == fake.reply
    assert answer.headers["x-roundhouse-model"] == "remote"


def test_a_chat_is_answered_in_a_stream(client: httpx.Client, fake: FakeOpenAI) -> None:
    answer = client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    chunks = events(answer.text)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == fake.reply


def test_a_form_with_a_file_is_read(client: httpx.Client) -> None:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(3200))
    form = {"file": ("a.wav", sound.getvalue(), "audio/wav")}
    answer = client.post("/v1/audio/transcriptions", data={"model": "whisper"}, files=form)
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"]


def test_a_local_worker_answers(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", json={"model": "all-minilm-l6-v2", "input": "Hello."})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"][0]["embedding"]) == 384


def test_errors_have_openais_shape(client: httpx.Client) -> None:
    for path, status in (("/v1/nothing", 404), ("/v1/chat/completions", 400)):
        answer = client.post(path, json={})
        assert (answer.status_code, set(answer.json()["error"])) == (status, {"message", "type", "param", "code"})


def test_what_it_did_is_measured_and_traced(client: httpx.Client, spans: Path) -> None:
    trace = client.post("/v1/chat/completions", json=CHAT).headers["x-roundhouse-trace"]
    assert 'route="/v1/chat/completions"' in client.get("/metrics").text
    assert eventually(lambda: client.get(f"/v1/traces/{trace}").json()["status"] == "done", within=10)
    assert eventually(lambda: spans.read_text() != "", within=20)


def test_it_stops_on_sigterm_and_logged_no_error(fake: FakeOpenAI, tmp_path: Path) -> None:
    (tmp_path / "roundhouse.toml").write_text(settings(fake))
    with served(tmp_path, python=PYTHON, environment={"ROUNDHOUSE_DATA_DIR": str(tmp_path / "data")}) as running:
        assert httpx.post(f"{running.v1}/chat/completions", json=CHAT, trust_env=False).status_code == 200
        assert stop(running) == 0
    assert "stopped" in running.log.read_text()
    assert not unhappy(running)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_two_processes_with_their_state_in_redis_answer_and_stop(fake: FakeOpenAI, tmp_path: Path) -> None:
    unix = tmp_path / "redis.sock"
    redis = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(unix), "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    try:
        assert eventually(unix.exists, within=10)
        (tmp_path / "roundhouse.toml").write_text(settings(fake, state=f"unix://{unix}"))
        data = {"ROUNDHOUSE_DATA_DIR": str(tmp_path / "data")}
        with served(tmp_path, "--workers", "2", python=PYTHON, environment=data) as running:
            for _ in range(8):
                answer = httpx.post(f"{running.v1}/chat/completions", json=CHAT, trust_env=False, timeout=30)
                assert answer.status_code == 200, answer.text
            assert stop(running) == 0
        assert not unhappy(running)
    finally:
        redis.terminate()
        redis.wait(10)
