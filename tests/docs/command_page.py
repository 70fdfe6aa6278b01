"""The reference of the command line, from its commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from server.cli import app
from tests.docs.markdown import table

HEAD = """# Commands

`roundhouse COMMAND --help` says the same in the terminal. [In the terminal](../terminal.md) tells of the chat, of
files and pipes, and of exit statuses.

`make reference` writes this page from the commands.
"""
PROGRAM = "roundhouse"
_SHOWN_BY_TYPER = ("--help", "--install-completion", "--show-completion")


def commands() -> Iterator[tuple[str, typer.Context]]:
    """Every command by its words, such as ``keys create``, with a context; groups come before their commands."""
    root = get_command(app)
    yield from _commands(root, "", typer.Context(root, info_name=PROGRAM))


def page() -> str:
    """The page as Markdown."""
    found = list(commands())
    shown = [(words, context) for words, context in found if words]
    summary = table(
        ("command", "does"),
        ((f"[`{words}`](#{_anchor(words)})", _first(context.command.help)) for words, context in shown),
    )
    return "\n".join([HEAD, summary, *(_section(words, context) for words, context in shown)])


def _commands(command: Any, words: str, context: typer.Context) -> Iterator[tuple[str, typer.Context]]:
    yield words, context
    if isinstance(command, TyperGroup):
        for name in sorted(command.list_commands(context)):
            inner = command.get_command(context, name)
            assert inner is not None
            if not inner.hidden:
                said = f"{words} {name}".strip()
                yield from _commands(inner, said, typer.Context(inner, parent=context, info_name=name))


def _section(words: str, context: typer.Context) -> str:
    command = context.command
    usage = " ".join((PROGRAM, words, *command.collect_usage_pieces(context)))
    parts = [f"## {words}\n", f"{_text(command.help)}\n", f"```text\n{usage}\n```\n"]
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[0] not in _SHOWN_BY_TYPER:
            rows.append((f"`{record[0].replace('`', '')}`", record[1]))
    if rows:
        parts.append(table(("argument or option", "meaning"), rows))
    return "\n".join(parts)


def _text(help_text: str | None) -> str:
    return re.sub(r"\s*\n(?!\n)\s*", " ", help_text or "").strip()


def _first(help_text: str | None) -> str:
    return _text(help_text).split(". ")[0].rstrip(".") + "."


def _anchor(words: str) -> str:
    return words.replace(" ", "-")
