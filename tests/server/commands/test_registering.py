"""``register``, ``unregister`` and ``load``: what they send to a running server, and what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from catalog.types import Json
from server.cli import app
from server.commands import workers
from server.commands.library import registering


class Recorder:
    """A client of a server that agrees with everything."""

    sent: list[tuple[str, str, Json | None]]

    def __init__(self, *_: object) -> None:
        pass

    def post(self, path: str, body: Any = None) -> Json:
        self.sent.append(("POST", path, body))
        return {"id": "m", "available": False, "unavailable_reason": "It is not here."}

    def request(self, method: str, path: str) -> httpx.Response:
        self.sent.append((method, path, None))
        return httpx.Response(200, json={"id": "m", "note": "The files stay."})


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Json | None]]:
    Recorder.sent = []
    for module in (registering, workers):
        monkeypatch.setattr(module, "ServerClient", Recorder)
    return Recorder.sent


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_repository_is_registered_with_options(sent: list[tuple[str, str, Json | None]]) -> None:
    told = run(
        *("register", "m", "hub:a/b:Q4_K_M", "--engine", "llamacpp", "--capability", "chat", "--alias", "n"),
        *("-o", "options.context=1024", "-o", 'options.split="none"', "-o", 'tags=["x"]'),
    )
    assert told == "m is registered. It is not here.\n"
    row = {
        "id": "m",
        "source": "hub:a/b:Q4_K_M",
        "engine": "llamacpp",
        "capabilities": ["chat"],
        "aliases": ["n"],
        "options": {"context": 1024, "split": "none"},
        "tags": ["x"],
    }
    assert sent == [("POST", "/v1/models", row)]


def test_a_file_is_named_by_its_whole_path(
    sent: list[tuple[str, str, Json | None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.gguf").touch()
    monkeypatch.chdir(tmp_path)
    run("register", "m", "m.gguf")
    assert sent[0][2] == {"id": "m", "source": str(tmp_path / "m.gguf")}


def test_a_model_of_another_server_comes_with_its_endpoint(sent: list[tuple[str, str, Json | None]]) -> None:
    run("register", "m", "lan/org/name", "--url-of", "http://10.0.0.5/v1", "--key-env", "LAN_API_KEY")
    assert sent[0][2] == {
        "id": "m",
        "source": {"kind": "upstream", "endpoint": "lan", "model": "org/name"},
        "endpoint": {
            "id": "lan",
            "base_url": "http://10.0.0.5/v1",
            "protocol": "openai",
            "key_env": ["LAN_API_KEY"],
        },
    }
    assert CliRunner().invoke(app, ["register", "m", "lan", "--url-of", "http://x/v1"]).exit_code == 2


def test_a_row_is_removed_with_its_files_or_without(sent: list[tuple[str, str, Json | None]]) -> None:
    assert run("unregister", "a/b c") == "m is removed. The files stay.\n"
    run("unregister", "m", "--files")
    assert [path for _, path, _ in sent] == ["/v1/models/a/b%20c?files=false", "/v1/models/m?files=true"], (
        "without 'files' the server deletes those of a model that was pulled"
    )


def test_a_model_is_loaded_with_options(sent: list[tuple[str, str, Json | None]]) -> None:
    run("load", "m", "--context", "2048", "--slots", "2", "--kv-cache", "q8_0", "-o", "batch=64", "--force")
    body = {"context": 2048, "slots": 2, "kv_cache": "q8_0", "options": {"batch": 64}, "force": True}
    run("load", "m")
    assert sent == [("POST", "/v1/models/m/load", body), ("POST", "/v1/models/m/load", {})]
    assert CliRunner().invoke(app, ["load", "m", "-o", "batch"]).exit_code == 2
