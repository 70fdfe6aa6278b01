"""The commands as a person types them: on a terminal of 80 columns, in a pipe, and from any folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.processes.data_folder import read_address
from server.settings import load_settings
from tests.e2e.providers import endpoint, model, providers
from tests.e2e.serving import Served, free_port, served
from tests.e2e.terminal import CTRL_C, CTRL_D, ENTER, terminal
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault

COMMAND = (sys.executable, "-P", "-m", "server.cli")
TEXT = "The quick brown fox jumps over the lazy dog."


def run(
    *arguments: str, cwd: Path, stdin: str = "", status: int = 0, environment: Mapping[str, str]
) -> tuple[str, str]:
    """A command in pipes: what it wrote to standard output and error."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin.encode(),
        capture_output=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )
    told = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == status, told
    return told


def keys(server: Served) -> dict[str, Any]:
    return {
        "ROUNDHOUSE_URL": server.url,
        "ROUNDHOUSE_DATA_DIR": os.environ.get("ROUNDHOUSE_DATA_DIR", str(load_settings().data_dir)),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }


def test_a_chat_answers_keeps_what_was_said_and_ends_with_ctrl_d(server: Served, tmp_path: Path) -> None:
    environment = {**keys(server), "ROUNDHOUSE_DATA_DIR": str(tmp_path)}
    command = (*COMMAND, "run", "smollm2-135m-instruct", "--max-tokens", "40")  # small models may never end
    with terminal(*command, cwd=tmp_path, environment=environment) as shown:
        shown.until("/help lists commands")
        shown.until(">>>")
        shown.type(f"What is the capital of France?{ENTER}")
        shown.until("tokens/s")
        shown.until("free")
        shown.until(">>>")
        shown.type(f"/save said.json{ENTER}")
        shown.until("2 messages -> said.json")
        shown.until(">>>")
        shown.type(CTRL_D)
        assert shown.finish() == 0
    question, answer = json.loads((tmp_path / "said.json").read_text())["messages"]
    assert question == {"role": "user", "content": "What is the capital of France?"}
    assert answer["content"]
    assert "capital of France" in (tmp_path / "chat-history").read_text()
    assert (tmp_path / "chat-history").stat().st_mode & 0o77 == 0


def test_ctrl_c_stops_the_answer_and_not_the_chat(tmp_path: Path) -> None:
    slow = FakeOpenAI()
    slow.reply = "once upon a time " * 200
    slow.fault = Fault(chunk_delay=0.01)
    with _provided(tmp_path, slow) as running:
        environment = {**keys(running), "ROUNDHOUSE_DATA_DIR": str(tmp_path / "data")}
        with terminal(*COMMAND, "run", "tale", "--no-history", cwd=tmp_path, environment=environment) as shown:
            shown.until(">>>")
            shown.type(f"Tell me a tale.{ENTER}")
            shown.until("once upon a time")
            shown.type(CTRL_C)
            assert "stopped" in shown.until(">>>")
            shown.type(f"/undo{ENTER}")
            shown.until("forgot the last question")
            shown.until(">>>")
            shown.type(CTRL_C)
            shown.until("ends the chat")
            shown.until(">>>")
            shown.type(f"/exit{ENTER}")
            assert shown.finish() == 0
    assert not (tmp_path / "data" / "chat-history").exists()


def test_several_lines_can_be_typed_and_pasted(tmp_path: Path) -> None:
    fake = FakeOpenAI()
    with _provided(tmp_path, fake) as running:
        environment = {**keys(running), "ROUNDHOUSE_DATA_DIR": str(tmp_path / "data")}
        with terminal(*COMMAND, "run", "tale", cwd=tmp_path, environment=environment) as shown:
            for typed in (
                "one\\\rtwo\r",
                '"""\rone\rtwo\r"""\r',
                "\x1b[200~one\rtwo\x1b[201~\r",
                "one\x1b\rtwo\r",
            ):
                shown.until(">>>")
                shown.type(typed)
                shown.until("fox")
            shown.until(">>>")
            shown.type(CTRL_D)
            assert shown.finish() == 0
    asked = [call.body["messages"][-1]["content"] for call in fake.calls if call.body.get("messages")]
    assert asked == ["one\ntwo"] * 4


def test_one_prompt_is_answered_from_arguments_a_pipe_or_both(server: Served, tmp_path: Path) -> None:
    environment = keys(server)
    question = "What is the capital of France? Answer in one sentence."
    out, error = run("run", question, "--stats", "--temperature", "0", cwd=tmp_path, environment=environment)
    assert "Paris" in out
    assert "tokens/s" in error
    assert "\x1b" not in out + error
    out, _ = run("run", "smollm2", "--temperature", "0", cwd=tmp_path, stdin=question, environment=environment)
    assert "Paris" in out
    out, error = run(
        "run", "smollm2", "Repeat this:", "--json", cwd=tmp_path, stdin="Hello there", environment=environment
    )
    figures = json.loads(out)
    assert figures["model"] == "smollm2-135m-instruct"
    assert figures["cost_dollars"] == 0
    assert figures["tokens_per_second"] > 0
    assert error == ""
    assert "nothing to answer" in run("run", "smollm2", cwd=tmp_path, status=2, environment=environment)[1]


def test_one_prompt_on_a_terminal_is_rendered_and_ctrl_c_ends_it_with_130(tmp_path: Path) -> None:
    fake = FakeOpenAI()
    fake.reply = "# A title\n\nand **bold** words"
    with _provided(tmp_path, fake) as running:
        with terminal(*COMMAND, "run", "tale", "hello there", cwd=tmp_path, environment=keys(running)) as shown:
            assert shown.finish() == 0
        assert "**" not in shown.text
        assert b"\x1b[1m" in shown.raw
        fake.reply, fake.fault = "once upon a time " * 200, Fault(chunk_delay=0.01)
        with terminal(*COMMAND, "run", "tale", "hello there", cwd=tmp_path, environment=keys(running)) as shown:
            shown.until("once upon")
            shown.type(CTRL_C)
            assert shown.finish() == 130


def test_text_becomes_vectors_and_speech_and_speech_becomes_text(server: Served, tmp_path: Path) -> None:
    environment = keys(server)
    (tmp_path / "two.txt").write_text("a cat\n\na dog\n")
    out, _ = run(
        "embed", "two.txt", "--lines", "--model", "all-minilm-l6-v2", cwd=tmp_path, environment=environment
    )
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["source"], row["line"], len(row["embedding"])) for row in rows] == [
        ("two.txt", 1, 384),
        ("two.txt", 3, 384),
    ]
    _, error = run("embed", "-t", "a cat", "-o", "cat.npy", cwd=tmp_path, environment=environment)
    assert "1 vector of 384 dimensions" in error
    assert (tmp_path / "cat.npy").stat().st_size > 384 * 4

    _, error = run("speak", "-o", "fox.wav", cwd=tmp_path, stdin=TEXT, environment=environment)
    assert re.match("(kokoro|hibari) spoke", error)
    with wave.open(str(tmp_path / "fox.wav")) as sound:
        assert sound.getnframes() > sound.getframerate()
    out, _ = run("transcribe", "fox.wav", cwd=tmp_path, environment=environment)
    assert "brown fox" in out
    out, _ = run("transcribe", "fox.wav", "fox.wav", "--format", "json", cwd=tmp_path, environment=environment)
    assert [json.loads(line)["file"] for line in out.splitlines()] == ["fox.wav", "fox.wav"]
    assert (
        json.loads(run("speak", "--voices", "--json", cwd=tmp_path, environment=environment)[0])[0]["object"]
        == "voice"
    )
    assert "cannot be read" in run("transcribe", "gone.wav", cwd=tmp_path, status=1, environment=environment)[1]


def test_a_picture_is_drawn_into_a_new_file(tmp_path: Path) -> None:
    fake = FakeOpenAI()
    with _provided(tmp_path, fake) as running:
        for name in ("picture.png", "picture-2.png"):
            _, error = run("draw", "a red engine", "-m", "brush", cwd=tmp_path, environment=keys(running))
            assert name in error
            assert (tmp_path / name).stat().st_size > 0
        assert (
            "must end in" in run("draw", "x", "-o", "x.tiff", cwd=tmp_path, status=2, environment=keys(running))[1]
        )


def test_listings_are_json_when_asked_and_whole_in_a_pipe(server: Served, tmp_path: Path) -> None:
    environment = keys(server)
    for command in ("ps", "usage", "pin", "doctor", "keys list", "discover"):
        out, _ = run(*command.split(), "--json", cwd=tmp_path, environment=environment)
        json.loads(out)
    for command in ("ps", "usage", "doctor", "keys list"):
        out, error = run(
            *command.split(), cwd=tmp_path, environment={**environment, "FORCE_COLOR": "1", "COLUMNS": "40"}
        )
        assert "…" not in out
        out, error = run(*command.split(), cwd=tmp_path, environment=environment)
        assert "\x1b" not in out + error
        assert "…" not in out


@pytest.mark.parametrize("command", ["list", "ps", "doctor"])
def test_listings_fit_a_terminal_of_80_columns_without_loss(server: Served, tmp_path: Path, command: str) -> None:
    with terminal(*COMMAND, command, cwd=tmp_path, environment=keys(server)) as shown:
        assert shown.finish() == 0
    # The next step is one line, so that its command can be copied.
    assert max(len(line) for line in shown.text.splitlines() if not line.startswith("Next:")) <= 80
    assert "…" not in shown.text


def test_doctor_ends_with_one_next_step(server: Served, tmp_path: Path) -> None:
    out, _ = run("doctor", cwd=tmp_path, environment=keys(server))
    lines = out.strip().splitlines()
    assert lines[-1].startswith("Next: ")
    assert out.count("Next:") == 1
    assert "mlx" not in out or sys.platform == "darwin"


@pytest.fixture
def own_folder(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a data folder of its own, with the starter models; a server left there is ended."""
    data = tmp_path / "data"
    (data).mkdir()
    (data / "models").symlink_to(load_settings().data_dir / "models")
    environment = {"ROUNDHOUSE_DATA_DIR": str(data), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    yield environment
    if (left := read_address(data)) is not None:
        os.kill(left.pid, signal.SIGTERM)
        psutil.Process(left.pid).wait(60)


def test_a_server_is_started_once_where_none_runs_found_from_anywhere_and_stopped(
    server: Served, tmp_path: Path, own_folder: dict[str, str]
) -> None:
    """The default port is taken by ``server`` or another program, or is free: either way it starts."""
    del server
    data = Path(own_folder["ROUNDHOUSE_DATA_DIR"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "server").mkdir()  # a folder that is called like a package of ours
    (elsewhere / "server" / "__init__.py").write_text("raise SystemExit(9)")
    out, error = run("embed", "-t", "a cat", cwd=elsewhere, environment=own_folder)
    assert json.loads(out)["model"] == "all-minilm-l6-v2"
    assert "started one at http://127.0.0.1:" in error
    assert "stop" in error
    first = read_address(data)
    assert first is not None
    out, error = run("ps", cwd=tmp_path, environment=own_folder)
    assert "all-minilm-l6-v2" in out
    _, error = run("embed", "-t", "a dog", cwd=tmp_path, environment=own_folder)
    assert "started" not in error
    assert read_address(data) == first
    out, _ = run("stop", cwd=tmp_path, environment=own_folder)
    assert first.url in out
    assert not psutil.pid_exists(first.pid)
    assert "No server runs" in run("stop", cwd=tmp_path, status=3, environment=own_folder)[1]


def test_a_server_that_does_not_start_is_told_in_one_line(tmp_path: Path, own_folder: dict[str, str]) -> None:
    (tmp_path / "roundhouse.toml").write_text(f'[server]\nhost = "0.0.0.0"\nport = {free_port()}\n')
    _, error = run("run", "hello there", cwd=tmp_path, status=1, environment=own_folder)
    last = error.strip().splitlines()[-1]
    assert last.startswith("roundhouse: The server did not start: Refusing to serve on 0.0.0.0 without API keys")


def test_the_lines_after_the_start_can_be_pasted(tmp_path: Path, own_folder: dict[str, str]) -> None:
    port = str(free_port())
    with terminal(*COMMAND, "serve", "--port", port, cwd=tmp_path, environment=own_folder) as shown:
        shown.until("listening")
        shown.until("Try it")
        shown.until("OPENAI_API_KEY=none")
        lines = shown.text.split("Try it", 1)[1].splitlines()[1:4]
        request = next(line.strip() for line in lines if "curl" in line)
        done = subprocess.run(["sh", "-c", request], capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(done.stdout)["choices"]
        os.kill(shown.process.pid, signal.SIGTERM)
        assert shown.finish() == 0


def test_the_exit_status_says_what_kind_of_failure_it_was(server: Served, tmp_path: Path) -> None:
    environment = keys(server)
    assert run("ps", cwd=tmp_path, status=3, environment={**environment, "ROUNDHOUSE_URL": "http://127.0.0.1:9"})
    assert run("trace", "tr_nothing", cwd=tmp_path, status=4, environment=environment)
    assert run("show", "nothing-like-this", cwd=tmp_path, status=4, environment=environment)
    assert run("run", "nothing-like-this", "hello", cwd=tmp_path, status=4, environment=environment)
    assert run("ps", "--no-such-option", cwd=tmp_path, status=2, environment=environment)
    assert "Exit status" in run("--help", cwd=tmp_path, environment=environment)[0]


def test_names_of_commands_and_models_are_completed(tmp_path: Path) -> None:
    def completed(typed: str, word: int) -> str:
        asked = {"_ROUNDHOUSE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(word)}
        code = "from server.cli import app; app(prog_name='roundhouse')"
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **asked},
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        return done.stdout

    assert "transcribe" in completed("roundhouse tran", 1)
    assert "smollm2-135m-instruct" in completed("roundhouse run smol", 2)
    assert "auto:best" in completed("roundhouse run auto", 2)
    assert "smollm2-135m-instruct" in completed("roundhouse show smollm2-1", 2)
    (tmp_path / "roundhouse.toml").write_text("x = [")
    assert completed("roundhouse run smol", 2).strip() == ""


@contextmanager
def _provided(folder: Path, fake: FakeOpenAI) -> Iterator[Served]:
    """A server whose model ``tale`` is the fake's, and ``brush`` its model of pictures."""
    with providers(fake):
        rows = (
            endpoint("far", fake),
            model("tale", "fake-chat", at="far"),
            model("brush", "gpt-image-1", at="far", capabilities=["image"]),
        )
        (folder / "roundhouse.toml").write_text("\n".join(rows))
        with served(folder, environment={"ROUNDHOUSE_DATA_DIR": str(folder / "served")}) as running:
            (folder / "roundhouse.toml").unlink()
            yield running
