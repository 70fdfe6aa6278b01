"""The output of the command line; an operator's mistake is one line, without a traceback."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from tests.fakes.gguf import chat_model

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide the developer's settings file and use the test's data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROUNDHOUSE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def run(*arguments: str) -> str:
    result = RUNNER.invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def roundhouse(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as a shell does."""
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str, status: int = 1) -> None:
    assert done.returncode == status
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("roundhouse: ")
    for word in words:
        assert word in lines[0]


def test_list_all_shows_every_row_and_its_state() -> None:
    lines = run("list", "--all").splitlines()
    smollm = next(line for line in lines if "smollm2-135m-instruct" in line)
    assert "not pulled" in smollm
    assert any("claude" in line and "remote" in line for line in lines)


def test_list_and_doctor_look_at_the_files_of_the_options_and_folders_too(elsewhere: Path) -> None:
    (elsewhere / "whole.gguf").write_bytes(chat_model())
    (elsewhere / "not.gguf").write_text("hello")
    os.mkfifo(elsewhere / "fifo.gguf")
    (elsewhere / "folder").mkdir()
    rows = "".join(
        f'[[model]]\nid = "{name}"\ncapabilities = ["{can}"]\nengine = "{engine}"\n'
        f'source = {{ kind = "path", path = "{elsewhere / file}" }}\n{options}\n'
        for name, can, engine, file, options in (
            ("eyes", "chat", "llamacpp", "whole.gguf", f'options = {{ mmproj = "{elsewhere}/fifo.gguf" }}'),
            (
                "tuned",
                "chat",
                "llamacpp",
                "whole.gguf",
                f'options = {{ lora = [{{ path = "{elsewhere}/not.gguf" }}] }}',
            ),
            ("quick", "chat", "llamacpp", "whole.gguf", f'options = {{ draft = "{elsewhere}/gone.gguf" }}'),
            ("maps", "embed", "onnx", "folder", ""),
            ("plain", "chat", "llamacpp", "whole.gguf", ""),
        )
    )
    (elsewhere / "roundhouse.toml").write_text(rows)
    states = {line.split()[0]: line for line in run("list").splitlines() if line.strip()}
    for name in ("eyes", "tuned", "quick", "maps"):
        assert "broken" in states[name], states
    assert "broken" not in states["plain"]
    for command in ("list", "doctor"):
        told = run(command)
        assert "fifo.gguf is not a regular file" in told
        assert "tuned: options.lora[0].path" in told
        assert f"there is no {elsewhere}/gone.gguf" in told
        assert f"there is no {elsewhere}/folder/tokenizer.json" in told
    assert json.loads(run("show", "quick"))["state"]["ready"] is False


def test_list_and_doctor_name_the_endpoint_of_a_remote_model(elsewhere: Path) -> None:
    (elsewhere / "roundhouse.toml").write_text(
        '[[endpoint]]\nid = "shed"\nbase_url = "http://127.0.0.1:9/v1"\n'
        '[[model]]\nid = "far"\ncapabilities = ["chat"]\n'
        'source = { kind = "upstream", endpoint = "shed", model = "m" }\n'
    )
    line = next(line for line in run("list", "--all").splitlines() if line.split()[:1] == ["far"])
    assert "shed" in line
    assert "local" not in line
    assert json.loads(run("show", "far"))["provider"] == "shed"


def test_list_all_and_show_tell_the_day_on_which_a_model_ends() -> None:
    line = next(line for line in run("list", "--all").splitlines() if line.split()[:1] == ["gpt-5-mini"])
    assert "2026-12-11" in line
    shown = json.loads(run("show", "gpt-5-mini"))
    assert (shown["ends"], shown["successor"]) == ("2026-12-11", "gpt-6.1-terra")


def test_list_shows_only_models_on_this_machine() -> None:
    text = run("list")
    assert "smollm2" not in text
    assert "gpt" not in text


def test_list_and_doctor_say_which_files_are_broken_and_which_models_lack_their_engine(elsewhere: Path) -> None:
    folder = elsewhere / "found"
    folder.mkdir()
    (folder / "cut-Q8_0.gguf").write_bytes(chat_model()[:300])
    (elsewhere / "mine.gguf").write_bytes(chat_model()[:100])
    (elsewhere / "whole.gguf").write_bytes(chat_model())
    rows = "".join(
        f'[[model]]\nid = "{name}"\ncapabilities = ["chat"]\nengine = "{engine}"\n'
        f'source = {{ kind = "path", path = "{elsewhere / file}" }}\n'
        for name, engine, file in (
            ("mine", "llamacpp", "mine.gguf"),
            ("gone", "llamacpp", "gone.gguf"),
            ("whole", "vllm", "whole.gguf"),
        )
    )
    (elsewhere / "roundhouse.toml").write_text(f'{rows}[discovery]\nfolders = ["{folder}"]\n')
    states = {line.split()[0]: line for line in run("list").splitlines() if line.strip()}
    assert "broken" in states["mine"]
    assert "broken" in states["gone"]
    if importlib.util.find_spec("vllm") is None:
        assert "no engine" in states["whole"]
    for command in ("list", "doctor"):
        told = run(command)
        assert "mine: mine.gguf is not a whole GGUF file" in told
        assert "gone: The model 'gone' is not at" in told
        assert "cut-Q8_0.gguf: " in told


def test_show_says_that_a_remote_model_lacks_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    state = json.loads(run("show", "gpt-5.4-mini"))["state"]
    assert state["ready"] is False
    assert "set OPENAI_API_KEY" in state["missing"]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-there")
    assert json.loads(run("show", "gpt-5.4-mini"))["state"] == {"ready": True, "missing": None}


def test_show_is_json_with_the_state() -> None:
    document = json.loads(run("show", "SmolLM2"))
    assert document["id"] == "smollm2-135m-instruct"
    assert document["state"]["ready"] is False
    assert "roundhouse pull" in document["state"]["missing"]


def test_doctor_names_the_extra_of_a_missing_engine() -> None:
    text = run("doctor")
    assert "cpu" in text
    assert "pip install" in text


def test_a_key_is_made_listed_rotated_and_revoked() -> None:
    made = RUNNER.invoke(app, ["keys", "create", "alice", "--model", "smollm2*", "--requests-per-minute", "5"])
    secret = made.stdout.strip()
    assert secret.startswith("rh-")
    [info] = json.loads(run("keys", "list", "--json"))
    assert (info["name"], info["models"]) == ("alice", ["smollm2*"])
    assert info["limits"]["requests"]["minute"] == 5
    assert secret not in json.dumps(info)
    rotated = RUNNER.invoke(app, ["keys", "rotate", info["id"]]).stdout.strip()
    assert rotated.startswith("rh-")
    assert rotated != secret
    assert "revoked" in run("keys", "revoke", info["id"])
    assert "revoked" in run("keys", "list")


def test_the_list_of_keys_shows_every_limit() -> None:
    limits = {
        "requests-per-minute": "5", "requests-per-day": "70", "tokens-per-day": "900", "tokens-per-month": "1000",
        "spend-per-request": "0.25", "spend-per-day": "5", "spend-total": "40.5",
    }  # fmt: skip
    RUNNER.invoke(
        app, ["keys", "create", "bob", *(word for name, most in limits.items() for word in (f"--{name}", most))]
    )
    listed = " ".join(run("keys", "list").replace("│", " ").split())
    assert "LIMITS" in listed
    for told in ("5 requests/minute", "70 requests/day", "900 tokens/day", "1000 tokens/month"):
        assert told in listed
    for told in ("$0.25/request", "$5/day", "$40.5 total"):
        assert told in listed
    RUNNER.invoke(app, ["keys", "create", "carol"])
    assert "none" in run("keys", "list")


def test_an_unknown_model_is_one_line_with_the_nearest() -> None:
    assert_one_line(roundhouse("show", "smollm"), "smollm2-135m-instruct", status=4)


def test_a_command_without_a_server_explains_how_to_start_one() -> None:
    assert_one_line(roundhouse("ps", "--url", "http://127.0.0.1:9"), "roundhouse serve", status=3)


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert_one_line(roundhouse("serve", "--port", str(taken.getsockname()[1])), "--port")


def test_a_settings_file_that_cannot_be_read_is_one_line(elsewhere: Path) -> None:
    (elsewhere / "bad.toml").write_text("x = [")
    assert_one_line(roundhouse("serve", "--config", "bad.toml"), "bad.toml")
    assert_one_line(roundhouse("serve", "--config", "absent.toml"), "absent.toml")
    (elsewhere / "wrong.toml").write_text("[server]\nport = 'eighty'\n")
    assert_one_line(roundhouse("serve", "--config", "wrong.toml"), "server.port")


def test_a_data_folder_that_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_DATA_DIR", "/proc/nowhere")
    assert_one_line(roundhouse("serve", "--port", "0"), "/proc/nowhere")


def test_an_open_address_without_keys_is_refused() -> None:
    assert_one_line(roundhouse("serve", "--host", "0.0.0.0", "--port", "0"), "keys")


def test_a_command_that_is_told_to_end_ends_what_it_has_begun() -> None:
    program = (
        "import os, signal, server.cli as cli\n"
        "def app():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        signal.pause()\n"
        "    finally:\n"
        "        print('ended')\n"
        "cli.app = app\n"
        "cli.main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("ended\n", "", 143)
