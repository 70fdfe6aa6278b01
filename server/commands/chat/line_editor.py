"""Reads messages on a terminal: history, completion, several lines, pasted text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from catalog.errors import RoundhouseError

HISTORY_FILE = "chat-history"
"""In the data folder: what was typed, for the arrow keys of the next chat."""


def reader(folder: Path, models: Callable[[], Iterable[str]], *, keep: bool) -> Callable[[str], str]:
    """A function that reads a message after a prompt, with the history of ``folder`` if ``keep``."""
    from server.commands.chat.session import COMMANDS

    session: PromptSession[str] = PromptSession(
        history=_history(folder) if keep else InMemoryHistory(),
        key_bindings=_keys(),
        completer=_ChatCompleter(tuple(COMMANDS), models),
        complete_while_typing=False,
        multiline=False,
        prompt_continuation="... ",
        enable_open_in_editor=True,
    )
    return session.prompt


def _history(folder: Path) -> History:
    """The history file, readable by its owner alone; in memory where it cannot be written."""
    file = folder / HISTORY_FILE
    try:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


def open_ended(text: str) -> bool:
    """Whether a message goes on in the next line: after a backslash, and between triple quotes."""
    begun = text.lstrip()
    if begun.startswith('"""'):
        return len(begun.rstrip()) < 6 or not begun.rstrip().endswith('"""')
    return text.endswith("\\")


def _keys() -> KeyBindings:
    keys = KeyBindings()

    # Ctrl-J stays Enter: what is typed before the prompt is there arrives as line feeds.
    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if not open_ended(buffer.text):
            buffer.validate_and_handle()
            return
        if buffer.text.endswith("\\"):
            buffer.delete_before_cursor()
        buffer.insert_text("\n")

    return keys


class _ChatCompleter(Completer):
    """Completes commands, names of models after ``/model``, and paths after ``@`` and the commands of files."""

    def __init__(self, commands: tuple[str, ...], models: Callable[[], Iterable[str]]) -> None:
        self._commands = commands
        self._models = models
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        command, space, argument = text.partition(" ")
        if text.startswith("/") and not space:
            yield from _completions(self._commands, text)
        elif command == "/model":
            try:
                names = tuple(self._models())
            except RoundhouseError:
                names = ()
            yield from _completions(names, argument)
        elif command in ("/file", "/save", "/save!", "/load"):
            yield from self._paths.get_completions(Document(argument), complete_event)
        elif "@" in text:
            yield from self._paths.get_completions(Document(text.rpartition("@")[2]), complete_event)


def _completions(names: Iterable[str], begun: str) -> Iterable[Completion]:
    return (Completion(name, -len(begun)) for name in names if name.startswith(begun))
