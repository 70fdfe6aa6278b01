"""The help of each command tells which key it takes, by the endpoints that it calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_group

from server.cli import app

ANY_KEY = {
    *("run", "embed", "speak", "transcribe", "draw", "batch", "smoke speech"),
    *("route", "trace", "outcome", "usage"),
}
"""Commands that call no endpoint for administrators."""
ADMIN_KEY = {
    *("ps", "load", "warm", "unload", "logs", "register", "unregister", "pin", "calibrate", "doctor"),
    *("config show", "router export", "router import"),
}


def commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def test_help_asks_for_an_admin_key_only_where_an_endpoint_needs_one() -> None:
    helps = {
        name: option.help
        for name, command in commands(get_group(app))
        for option in command.params
        if "--key" in option.opts
    }
    assert {name for name, told in helps.items() if told.startswith("A key, ")} == ANY_KEY
    assert {name for name, told in helps.items() if told.startswith("An admin key, ")} == ADMIN_KEY
