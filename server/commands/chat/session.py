"""The chat in a terminal: a prompt, answers that Ctrl-C stops, and commands that begin with a slash."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from backends.wire.chat import ChatRequest
from catalog.errors import ConfigurationError, RoundhouseError
from catalog.types import Json
from server.commands.chat.answers import ChatAnswer, ask
from server.commands.chat.attachments import content_of, missing_files, read_message
from server.commands.chat.conversation import ChatConversation
from server.commands.chat.display import MarkdownDisplay, PlainDisplay
from server.commands.chat.models import choose, confirmed, listed
from server.commands.client import ServerClient
from server.commands.support.options import check_fields
from server.commands.support.remarks import dropped_line
from server.commands.support.statuses import UsageError

if TYPE_CHECKING:
    from rich.console import Console

Read = Callable[[str], str]
"""Reads a message, after a prompt. Raises EOFError at the end of the input, KeyboardInterrupt at Ctrl-C."""
PROMPT = ">>> "
_OF_CHAT = frozenset({"messages", "model", "stream", "stream_options", "timings", "n"})
"""Fields of a request that the chat sets."""


class ChatSession:
    """A chat on a terminal, until Ctrl-D or ``/exit``."""

    def __init__(self, client: ServerClient, conversation: ChatConversation, console: Console) -> None:
        self._client = client
        self._said = conversation
        self._console = console
        self._last: ChatAnswer | None = None
        self._stats = True
        self._markdown = True

    def run(self, read: Read) -> None:
        """Read messages and answer them. An error is one line, and the chat goes on."""
        self._tell(f"{self._said.model}: /help lists commands, Ctrl-C stops an answer, Ctrl-D ends the chat.")
        while True:
            try:
                typed = read(PROMPT).strip()
            except KeyboardInterrupt:
                self._tell("Ctrl-D or /exit ends the chat.")
                continue
            except EOFError:
                return
            if typed in ("/exit", "/quit", "/bye"):
                return
            try:
                self._do(typed)
            except RoundhouseError as error:
                self._console.print(error.message, style="red", highlight=False)
            except KeyboardInterrupt:
                self._tell("stopped")

    def _do(self, typed: str) -> None:
        if not typed:
            return
        if typed.startswith("/") and not typed.startswith("//") and not Path(typed.split()[0]).exists():
            name, _, argument = typed.partition(" ")
            self._command(name, argument.strip())
            return
        text, files = read_message(typed.removeprefix("/") if typed.startswith("//") else unquoted(typed))
        for name in missing_files(text):
            self._tell(f"there is no file {name}: @{name} is sent as text")
        self._ask(content_of(text, files, self._tell))

    def _ask(self, content: str | list[Json]) -> None:
        with MarkdownDisplay(self._console) if self._markdown else PlainDisplay() as display:
            answer = ask(self._client, self._said.body(content), display.show)
        self._last = answer
        if answer.text:
            self._said.add(content, answer.text)
        if answer.dropped:
            self._tell(dropped_line(answer.dropped))
        if self._stats:
            self._tell(answer.line())
            for told in (answer.reason, answer.notice):
                if told:
                    self._console.print(told, style="dim", highlight=False, no_wrap=True, overflow="ellipsis")
        self._console.print()

    def _command(self, name: str, argument: str) -> None:
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=2)
            meant = f" Did you mean {' or '.join(near)}?" if near else " /help lists them."
            raise UsageError(
                f"There is no command {name}.{meant} A message that begins with a slash begins with //."
            )
        COMMANDS[name][0](self, argument)

    def _tell(self, line: str) -> None:
        self._console.print(line, style="dim", highlight=False)

    # ---- the commands

    def help(self, _: str) -> None:
        """List the commands."""
        for name, (_command, form, told) in COMMANDS.items():
            self._console.print(f"  {f'{name} {form}':22}{told}", highlight=False)
        self._tell('  Alt-Enter or a \\ at the end of a line goes on in the next; so does text between """.')
        self._tell("  @PATH attaches a file; so does the path of a picture. Tab completes.")

    def model(self, argument: str) -> None:
        """Show the model, or go on with another."""
        if argument:
            self._said.model = choose(self._client, argument, confirmed)
        self._tell(f"model: {self._said.model}")

    def models(self, _: str) -> None:
        """List the models that can chat."""
        for card in listed(self._client):
            mark = "*" if card["id"] == self._said.model else " "
            self._console.print(f"{mark} {card['id']}", highlight=False)

    def system(self, argument: str) -> None:
        """Show or set the system prompt."""
        if argument:
            self._said.system = None if argument == "-" else argument
        self._tell(f"system: {self._said.system or 'none'}")

    def set(self, argument: str) -> None:
        """Show or set a parameter of the requests."""
        name, _, value = argument.partition(" ")
        if name and not value:
            self._said.parameters.pop(name, None)
        elif name:
            self._said.parameters[name] = value_of(name, value.strip())
            if name not in known_parameters():
                self._tell(
                    f"{name} is none of the API's parameters: it is sent for a model's server that knows it"
                )
        shown = ", ".join(f"{key} {set_to}" for key, set_to in self._said.parameters.items())
        self._tell(f"parameters: {shown or 'those of the model'}")

    def file(self, argument: str) -> None:
        """Send a file, with the question after it."""
        text, files = read_message(f"@{argument}")
        if not files:
            raise ConfigurationError(f"There is no file {argument or 'named: /file PATH QUESTION'}.")
        self._ask(content_of(text, files, self._tell))

    def retry(self, _: str) -> None:
        """Ask the last question again."""
        question = self._said.undo()
        if question is None:
            raise ConfigurationError("No question was asked yet.")
        self._ask(question)

    def undo(self, _: str) -> None:
        """Forget the last question and its answer."""
        self._tell("nothing to forget" if self._said.undo() is None else "forgot the last question and its answer")

    def new(self, _: str) -> None:
        """Begin a new conversation."""
        self._said.messages.clear()
        self._tell("a new conversation; the model and the system prompt stay")

    def save(self, argument: str) -> None:
        """Save the conversation to a new file."""
        self._save(argument, replace=False)

    def save_over(self, argument: str) -> None:
        """Save the conversation, also over a file."""
        self._save(argument, replace=True)

    def _save(self, argument: str, *, replace: bool) -> None:
        if not argument:
            raise ConfigurationError("Name a file: /save chat.json (to /load it again) or chat.md (to read).")
        self._said.save(Path(argument), replace=replace)
        self._tell(f"{len(self._said.messages)} messages -> {argument}")

    def load(self, argument: str) -> None:
        """Go on with a conversation that was saved as JSON."""
        self._said = ChatConversation.load(Path(argument))
        self._tell(f"{len(self._said.messages)} messages; model: {self._said.model}")

    def why(self, _: str) -> None:
        """Tell the whole reason for the last answer's model."""
        if self._last is None:
            raise ConfigurationError("No question was asked yet.")
        self._console.print(self._last.reason or "The server did not say.", highlight=False)
        if self._last.trace:
            self._tell(f"all candidates: roundhouse trace {self._last.trace}")

    def stats(self, argument: str) -> None:
        """Show figures after each answer, or not."""
        self._stats = switched(argument, self._stats)
        self._tell(f"figures: {'on' if self._stats else 'off'}")

    def markdown(self, argument: str) -> None:
        """Render Markdown, or show answers as they are."""
        self._markdown = switched(argument, self._markdown)
        self._tell(f"Markdown: {'on' if self._markdown else 'off'}")


COMMANDS: dict[str, tuple[Callable[[ChatSession, str], None], str, str]] = {
    "/help": (ChatSession.help, "", "this list"),
    "/model": (ChatSession.model, "[NAME]", "show the model, or go on with another"),
    "/models": (ChatSession.models, "", "the models that can chat"),
    "/system": (ChatSession.system, "[TEXT]", "show or set the system prompt; - removes it"),
    "/set": (ChatSession.set, "[NAME VALUE]", "parameters, as in /set temperature 0.2"),
    "/file": (ChatSession.file, "PATH [QUESTION]", "send a text, picture, recording or PDF"),
    "/retry": (ChatSession.retry, "", "ask the last question again"),
    "/undo": (ChatSession.undo, "", "forget the last question and its answer"),
    "/new": (ChatSession.new, "", "begin a new conversation"),
    "/save": (ChatSession.save, "FILE", "save the conversation, as .json or .md"),
    "/save!": (ChatSession.save_over, "FILE", "the same, also over a file that is there"),
    "/load": (ChatSession.load, "FILE.json", "go on with a saved conversation"),
    "/why": (ChatSession.why, "", "why this model answered"),
    "/stats": (ChatSession.stats, "[on|off]", "figures after each answer"),
    "/markdown": (ChatSession.markdown, "[on|off]", "render Markdown"),
    "/exit": (lambda *_: None, "", "end the chat; so does Ctrl-D"),
}
"""The commands: what each does, the form of its argument, and its line of help. ``/exit`` is read before."""


def unquoted(typed: str) -> str:
    """A message without the triple quotes around it."""
    quoted = len(typed) >= 6 and typed.startswith('"""') and typed.endswith('"""')
    return typed[3:-3].strip("\n") if quoted else typed


def switched(argument: str, now: bool) -> bool:
    """``on`` and ``off``; without an argument the other of both. Raises ConfigurationError for anything else."""
    if argument not in ("", "on", "off"):
        raise ConfigurationError("Say on or off.")
    return not now if not argument else argument == "on"


def value_of(name: str, text: str) -> object:
    """A parameter's value: JSON, else the text.

    Raises UsageError for a parameter of the chat itself, a misspelt one, and a value that no request may have.
    """
    if name in _OF_CHAT:
        raise UsageError(f"'{name}' is set by the chat itself.")
    near = difflib.get_close_matches(name, known_parameters(), n=1, cutoff=0.85)
    if near and near[0] != name:
        raise UsageError(f"There is no parameter '{name[:80]}'; did you mean '{near[0]}'?")
    try:
        value: object = json.loads(text)
    except ValueError:
        value = text
    check_fields(ChatRequest, {"messages": [{"role": "user", "content": "a question"}], name: value})
    return value


@cache
def known_parameters() -> frozenset[str]:
    """The fields of a chat request that a chat does not set itself."""
    from server.wires.translation import CHAT_EXTRAS  # imported at the first use: few chats need it

    return (CHAT_EXTRAS | ChatRequest.model_fields.keys()) - _OF_CHAT
