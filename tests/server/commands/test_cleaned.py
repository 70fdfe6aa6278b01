"""Names, messages and answers of others are printed without control characters, wherever a command prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import server
from catalog.errors import RoundhouseError
from server import cli
from server.commands import terminal

HOSTILE = "a\x1b]0;PWNED\x07\x1b[2Jb\x9bc\r"
PLAIN = "a]0;PWNED[2Jbc"


def test_a_text_is_printed_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say(f"{HOSTILE}\tand\nmore")
    terminal.say(HOSTILE, err=True)
    assert capsys.readouterr() == (f"{PLAIN}\tand\nmore\n", f"{PLAIN}\n")


def test_tables_and_lines_of_a_console_too(capsys: pytest.CaptureFixture[str]) -> None:
    table = terminal.table()
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    terminal.console().print(table)
    terminal.console().print(HOSTILE, style="bold")
    printed = capsys.readouterr().out
    assert printed.count("PWNED") == 3
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", printed)


def test_a_servers_error_is_printed_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise RoundhouseError(HOSTILE)

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == f"roundhouse: {PLAIN}\n"


def test_no_command_prints_by_itself() -> None:
    folder = Path(server.__file__).parent
    for file in (folder / "cli.py", *(folder / "commands").rglob("*.py")):
        if file.name != "terminal.py":
            assert not re.search(r"typer\.echo\(|(?<![.\w])print\(|\bConsole\(", file.read_text()), file
