"""``roundhouse router export`` and ``import``: files out and in, with plain words for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from catalog.errors import ConfigurationError
from server.cli import app
from server.commands.client import ServerClient

PROFILE: dict[str, Any] = {"object": "router.profile", "version": 1, "models": {"a": {}, "b": {}}}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The bodies that were sent to a server that has observed ``b`` itself."""
    bodies: list[Any] = []

    def post(_: ServerClient, path: str, body: Any = None) -> Any:
        bodies.append(body)
        taken = {"a": True, "b": False} | ({"nosuch": True} if "nosuch" in body["models"] else {})
        return {"object": "priors", "taken": taken, "unknown_models": sorted(taken.keys() - {"a", "b"})}

    monkeypatch.setattr(ServerClient, "get", lambda *_, **__: PROFILE)
    monkeypatch.setattr(ServerClient, "post", post)
    return bodies


def run(*words: str, typed: str | None = None) -> Any:
    return CliRunner().invoke(app, ["router", *words], input=typed)


def test_what_is_exported_to_a_file_is_imported_from_it_with_its_name_as_source(
    sent: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "oslo.json"
    assert "2 models" in run("export", str(file)).output
    told = run("import", str(file), "--weight", "0.7").output
    assert sent == [{**PROFILE, "source": "oslo.json", "weight": 0.7}]
    assert "1 models imported" in told
    assert "kept as learned: b" in told


def test_a_profile_passes_through_pipes(sent: list[Any]) -> None:
    out = run("export").output
    assert json.loads(out) == PROFILE
    run("import", "-", "--source", "the Oslo server", typed=out)
    assert sent == [{**PROFILE, "source": "the Oslo server"}]


def test_names_that_mean_no_model_are_told_and_toml_is_read(sent: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text("[models.a]\noverall = 0.8\n[models.nosuch]\ncode = 0.9\n")
    told = run("import", str(file)).output
    assert sent == [{"models": {"a": {"overall": 0.8}, "nosuch": {"code": 0.9}}, "source": "ours.toml"}]
    assert "1 models imported" in told
    assert "no model of this server, kept for one that may come: nosuch" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no JSON"),
        ('{"models": {"a": {"overall": NaN}}}', "is no JSON"),
        ("[]", "an object with 'models' or 'benchmarks'"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_before_it_is_sent(
    sent: list[Any], tmp_path: Path, text: str | None, told: str
) -> None:
    file = tmp_path / "wrong.json"
    if text is not None:
        file.write_text(text)
    failed = run("import", str(file))
    assert isinstance(failed.exception, ConfigurationError)
    assert told in failed.exception.message
    assert not sent
