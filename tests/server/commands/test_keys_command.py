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
