"""``run``: chats with a model in the terminal, or answers one prompt for a script."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands import terminal
from server.commands.client import Config, Key, ServerClient, Url
from server.commands.running import reach
from server.commands.support.completion import complete_model
from server.commands.support.options import gives

if TYPE_CHECKING:
    from server.commands.chat.conversation import ChatConversation

app = typer.Typer()
_STDIN_LIMIT = 8 * 2**20
"""Bytes of standard input that are read as a prompt."""


@app.command()
@gives()
def run(
    model: Annotated[
        str,
        typer.Argument(
            help="A model, an alias, or auto, auto:best, auto:fast... A prompt alone is answered by auto.",
            autocompletion=complete_model,
        ),
    ] = "auto",
    prompt: Annotated[
        list[str] | None, typer.Argument(help="One prompt, instead of a chat. Standard input is added to it.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="The system prompt.")] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="A text, picture, recording or PDF to send. Repeatable."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with a conversation that /save has written as JSON.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 always takes the likeliest.")] = None,
    history: Annotated[
        bool, typer.Option("--history/--no-history", help="Keep what is typed for the next chat's arrow keys.")
    ] = True,
    stats: Annotated[
        bool, typer.Option("--stats", help="After one answer, print its figures to standard error.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one answer and its figures as JSON.")] = False,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Chat with a model, or answer one prompt: from the arguments, from a pipe, or both.

    A server is started if none runs. In the chat, Ctrl-C stops an answer and /help lists the commands.
    """
    from server.commands.chat.conversation import ChatConversation

    words = list(prompt or ())
    if any(letter.isspace() for letter in model):  # no model's name has a space
        model, words = "auto", [model, *words]
    piped = "" if sys.stdin.isatty() else _piped()
    asked = "\n\n".join(part for part in (" ".join(words), piped) if part.strip())
    chatting = not asked and not files and sys.stdin.isatty()
    if not chatting and not asked:
        if model != "auto":  # a name that is nowhere is the nearer mistake
            _model(reach(url, key, config), model, model, chatting=False)
        raise typer.BadParameter("there is nothing to answer: standard input is empty.", param_hint="PROMPT")
    if chatting and not sys.stdout.isatty():
        raise typer.BadParameter("a chat needs a terminal for its output; give one prompt.", param_hint="PROMPT")
    said = ChatConversation.load(resume) if resume is not None else ChatConversation()
    client = reach(url, key, config)
    said.model = _model(client, model, said.model, chatting=chatting)
    said.system = system or said.system
    limits = {"max_tokens": max_tokens, "temperature": temperature}
    said.parameters |= {name: value for name, value in limits.items() if value is not None}
    if chatting:
        _chat(client, said, keep=history)
    else:
        _answer(client, said, asked, files or [], stats=stats, as_json=as_json)


def _piped() -> str:
    data = sys.stdin.buffer.read(_STDIN_LIMIT + 1)
    if len(data) > _STDIN_LIMIT:
        raise typer.BadParameter(f"standard input has more than {_STDIN_LIMIT} bytes.", param_hint="PROMPT")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise typer.BadParameter(
            "standard input is not UTF-8 text; send another file with --file.", param_hint="PROMPT"
        ) from None


def _model(client: ServerClient, named: str, resumed: str, *, chatting: bool) -> str:
    from server.commands.chat.models import choose, confirmed

    return choose(client, resumed if named == "auto" else named, confirmed if chatting else None)


def _chat(client: ServerClient, said: ChatConversation, *, keep: bool) -> None:
    from server.commands.chat.line_editor import reader
    from server.commands.chat.models import listed
    from server.commands.chat.session import ChatSession

    read = reader(client.settings.data_dir, lambda: [card["id"] for card in listed(client)], keep=keep)
    ChatSession(client, said, terminal.console()).run(read)


def _answer(
    client: ServerClient, said: ChatConversation, asked: str, files: list[Path], *, stats: bool, as_json: bool
) -> None:
    from server.commands.chat.answers import ask
    from server.commands.chat.attachments import content_of
    from server.commands.chat.display import MarkdownDisplay, PlainDisplay

    body = said.body(content_of(asked, files, lambda line: terminal.say(line, err=True)))
    if as_json:
        answer = ask(client, body, lambda *_: None)
        terminal.say(json.dumps(answer.figures(), indent=1, ensure_ascii=False))
    else:
        with MarkdownDisplay(terminal.console()) if sys.stdout.isatty() else PlainDisplay() as display:
            answer = ask(client, body, display.show)
        if stats:
            terminal.say(f"{answer.line()}\n{answer.reason or ''}", err=True)
        if answer.notice:
            terminal.say(answer.notice, err=True)
    if answer.stopped:
        raise typer.Exit(130)
