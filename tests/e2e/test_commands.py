"""The terminal commands that call a running server, run as processes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from server.commands.smoke import word_error_rate, words
from tests.e2e.providers import endpoint, model, providers
from tests.e2e.serving import Served, eventually, served
from tests.fakes.openai import FakeOpenAI

VOICES = ("kokoro", "hibari")
"""The starters that speak: the choice follows how fast they were on this machine."""

CHAT = "smollm2-135m-instruct"
EMBED = "all-minilm-l6-v2"


def run(*arguments: str, cwd: Path | None = None, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", *arguments], capture_output=True, text=True, timeout=120, cwd=cwd
    )
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def ask(server: Served, command: str, *arguments: str, status: int = 0) -> str:
    return run(*command.split(), *arguments, "--url", server.url, status=status)


@pytest.fixture(scope="module")
def trace(server: Served) -> str:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 8}
    response = httpx.post(f"{server.v1}/chat/completions", json=body, trust_env=False, timeout=60)
    assert response.status_code == 200
    return response.headers["x-roundhouse-trace"]


def test_route_tells_the_choice_its_numbers_and_who_cannot(server: Served) -> None:
    told = ask(server, "route", "What is the capital of France?")
    for part in (CHAT, "expected quality", "CAN ANSWER", "CANNOT", "no key is set"):
        assert part in told
    document = json.loads(ask(server, "route", "Hi", "--json", "--task", "extract", "--local-only"))
    assert document["request"]["task"] == "extract"
    assert {"privacy"} <= {each["code"] for each in document["excluded"]}


def test_trace_outcome_and_usage_of_a_request(server: Served, trace: str) -> None:
    client = httpx.Client(base_url=server.v1, trust_env=False)
    with client:
        assert eventually(lambda: client.get(f"/traces/{trace}").json()["status"] == "done", within=30)
    told = ask(server, "trace", trace)
    assert CHAT in told
    assert "success" in told
    assert "expected quality" in ask(server, "outcome", trace, "--score", "0.9")
    assert "Say how good" in ask(server, "outcome", trace, status=2)
    assert CHAT in ask(server, "usage")
    rows = list(csv.DictReader(io.StringIO(ask(server, "usage", "--csv", "--by", "model"))))
    assert CHAT in {row["model"] for row in rows}


def test_warm_loads_each_model(server: Served) -> None:
    told = ask(server, "warm", CHAT, EMBED)
    assert f"{CHAT} is loaded" in told
    assert f"{EMBED} is loaded" in told


def test_the_embeddings_pin_is_shown_and_changed_only_by_name(server: Served) -> None:
    assert "cannot embed" in ask(server, "pin", "auto", CHAT, status=1)
    assert "Name the model" in ask(server, "pin", "auto", status=2)
    assert "Only 'auto'" in ask(server, "pin", EMBED, EMBED, status=2)
    assert f"auto:best -> {EMBED}" in ask(server, "pin", "auto:best", EMBED)
    assert f"auto:best -> {EMBED}" in ask(server, "pin")
    body = {"input": "a", "capability": "embed", "model": "auto:best"}
    told = httpx.post(f"{server.v1}/route", json=body, trust_env=False).json()
    assert (told["model"], told["strategy"]) == (EMBED, "pinned")
    assert "chosen by the router" in ask(server, "pin", "auto:best", "--remove")


def test_doctor_tells_of_this_machine_and_of_the_server(server: Served) -> None:
    told = ask(server, "doctor")
    shown = ("ENGINE", "models of the server", "PROVIDER", "openai")
    for part in (*shown, "interactive vision", "background code", "transcribe"):
        assert part in told
    alone = run("doctor", "--url", "http://127.0.0.1:9")
    assert "ENGINE" in alone
    assert "No server answers" in alone


def test_the_report_covers_what_an_operator_asks(server: Served) -> None:
    told = httpx.get(f"{server.v1}/admin/report", trust_env=False).json()
    assert {each["scenario"] for each in told["scenarios"]} == {
        "interactive text",
        "background code",
        "interactive tools",
        "interactive vision",
    }
    assert told["scenarios"][0]["model"] == CHAT
    assert told["scenarios"][3]["model"] is None
    assert told["coverage"]["embed"]
    assert told["defaults"]["speak"] in VOICES
    assert told["speech"]["transcribe"]["model"] == "whisper-base"
    provider = next(each for each in told["providers"] if each["provider"] == "openai")
    assert (provider["usable"], provider["needs_key"], provider["keys"]) == (False, True, [])
    prior = next(each for each in told["priors"] if each["model"] == CHAT)
    assert 0 < prior["prior"]["chat"] < 1


def test_smoke_speech_speaks_and_hears_the_sentence(server: Served) -> None:
    told = ask(server, "smoke speech", "--format", "mp3")
    assert told.startswith(tuple(f"{voice} spoke" for voice in VOICES))
    assert "whisper-base heard" in told
    assert "word error rate" in told
    assert "came back wrong" in ask(
        server, "smoke speech", "--text", "Zzyzx qwrt pfft.", "--at-most", "0", status=1
    )


@pytest.mark.parametrize(
    ("heard", "rate"), [("the quick fox", 0.0), ("the fox", 1 / 3), ("a quick red fox", 2 / 3), ("", 1.0)]
)
def test_the_word_error_rate_counts_changed_missing_and_added_words(heard: str, rate: float) -> None:
    assert word_error_rate(words("The quick fox."), words(heard)) == pytest.approx(rate)


def test_discover_lists_what_servers_and_folders_have(tmp_path: Path, gguf: Path) -> None:
    lan = FakeOpenAI()
    lan.models = ["llama-lan"]
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tiny-Q4_1.gguf").symlink_to(gguf)
    with providers(lan):
        tables = (
            f'[discovery]\nfolders = ["{folder}"]\n',
            endpoint("lan", lan, discover=True),
            '[[endpoint]]\nid = "absent"\nbase_url = "http://127.0.0.1:9/v1"\ndiscover = true\n',
            model("mine", "llama-lan", at="lan"),
        )
        (tmp_path / "roundhouse.toml").write_text("\n".join(tables))
        told = json.loads(run("discover", "--json", cwd=tmp_path))
        table = run("discover", cwd=tmp_path)
    found = {each["source"]: each for each in told}
    assert [row["id"] for row in found["lan"]["models"]] == ["lan/llama-lan"]
    assert found["absent"]["error"]
    assert [row["engine"] for row in found[str(folder)]["models"]] == ["llamacpp"]
    assert "lan/llama-lan" in table


def test_a_gguf_file_in_a_configured_folder_can_be_called_by_its_name(tmp_path: Path, gguf: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "found-Q4_1.gguf").symlink_to(gguf)
    (tmp_path / "roundhouse.toml").write_text(f'[discovery]\ninterval = 0.2\nfolders = ["{folder}"]\n')
    with (
        served(tmp_path, environment={"ROUNDHOUSE_DATA_DIR": str(tmp_path / "data")}) as running,
        httpx.Client(base_url=running.v1, trust_env=False, timeout=60) as client,
    ):

        def found() -> list[str]:
            rows = client.get("/models").json()["data"]
            return [row["id"] for row in rows if row.get("origin") == "discovered"]

        assert eventually(lambda: len(found()) == 1, within=30)
        name = found()[0]
        body = {"model": name, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}
        answer = client.post("/chat/completions", json=body)
        assert answer.json()["model"] == name, answer.text
        (folder / "found-Q4_1.gguf").unlink()
        assert eventually(lambda: not found(), within=30)
