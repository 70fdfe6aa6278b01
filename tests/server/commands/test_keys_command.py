"""``roundhouse keys`` where its folder cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from catalog.errors import ConfigurationError
from server.cli import app


@pytest.mark.parametrize("command", [["create", "x"], ["list"], ["revoke", "key-1"]])
def test_a_folder_that_cannot_be_written_is_told_as_that(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROUNDHOUSE_DATA_DIR", str(tmp_path / "file" / "data"))
    with pytest.raises(ConfigurationError, match="cannot be written: Not a directory"):
        CliRunner().invoke(app, ["keys", *command], catch_exceptions=False)


def test_a_key_for_a_model_that_is_not_there_is_made_with_a_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUNDHOUSE_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["keys", "create", "x", "--model", "kokoroo", "--model", "all-minilm-*"])
    assert made.exit_code == 0, made.output
    assert "no model has the name 'kokoroo' at present; did you mean 'kokoro'?" in made.stderr
    assert made.stderr.count("no model") == 1


def test_a_key_that_would_have_expired_is_the_options_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUNDHOUSE_DATA_DIR", str(tmp_path))
    made = CliRunner().invoke(app, ["keys", "create", "x", "--expires-in-days", "0"])
    assert made.exit_code == 2
    assert "--expires-in-days" in made.stderr
