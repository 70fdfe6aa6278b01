"""Remarks of ``roundhouse config check``: what a server starts without, and caps that bound nobody."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.configuration.checking import check


@pytest.fixture(autouse=True)
def _empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("ROUNDHOUSE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ROUNDHOUSE_DATA_DIR", str(tmp_path / "data"))


def written(text: str) -> Path:
    file = Path("roundhouse.toml")
    file.write_text(text)
    return file


def test_what_a_server_starts_without_is_remarked(tmp_path: Path) -> None:
    text = '[spend]\nkeys = { key-mistyped = { day = 1.0 } }\n[workers]\npython = { vllm = "/nosuch" }\n'
    cap, engine = check(written(text))
    assert not cap.error
    assert not engine.error
    assert (cap.where, engine.where) == ("roundhouse.toml:2", "roundhouse.toml:4")
    assert "bounds nobody" in cap.message
    assert "/nosuch" in engine.message


def test_a_cap_of_a_key_that_is_there_is_not_remarked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_API_KEYS", "of-the-settings")
    made = CliRunner().invoke(app, ["keys", "create", "ada", "--admin"])
    assert made.exit_code == 0, made.output
    created = made.stderr.split()[0]
    own = f"settings-{hashlib.sha256(b'of-the-settings').hexdigest()[:12]}"
    file = written(f"[spend]\nkeys = {{ {created} = {{ day = 1.0 }}, {own} = {{ day = 1.0 }} }}\n")
    assert check(file) == []
    far = written(
        f'[state]\nurl = "redis://x"\n[spend]\nkeys = {{ {created} = {{ day = 1.0 }}, k = {{ day = 1 }} }}\n'
    )
    assert ["k:" in each.message for each in check(far)] == [True], "keys of a store elsewhere are not known"
