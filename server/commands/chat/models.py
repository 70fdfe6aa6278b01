"""The model of a chat: looked up on the server, and pulled there if the user wants it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from urllib.parse import quote

from catalog.errors import ConfigurationError, ModelUnavailable
from catalog.types import Json
from server.commands import terminal
from server.commands.chat.answers import events
from server.commands.client import ServerClient
from server.commands.support.statuses import ServerAnswered
from server.program import program

Confirm = Callable[[str], bool]
_CHAT = "chat"


def choose(client: ServerClient, name: str, confirm: Confirm | None) -> str:
    """The id under which the server chats with this model: an id, an alias, ``auto``, a name or address to pull.

    ``confirm`` is asked before a model is pulled; without it, no model is. Raises the server's error for an
    unknown name, ModelUnavailable for a model that is not on this machine, ConfigurationError for one that does
    not chat.
    """
    try:
        card = client.get(_card_path(name))
    except ServerAnswered as error:
        if error.status != 404 or not _can_be_pulled(name):
            raise
        card = client.get(_card_path(_pulled(client, name, confirm)))
    if card.get("router"):
        return str(card["id"])
    if _CHAT not in card["capabilities"]:
        others = ", ".join(each for each in _chatting(client)[:5])
        raise ConfigurationError(f"{card['id']} does not chat. Models that do: {others or 'none yet'}.")
    if card.get("available") is False and card.get("downloaded") is False:
        return _pulled(client, card["id"], confirm)
    if card.get("available") is False:
        raise ModelUnavailable(card.get("unavailable_reason") or f"{card['id']} cannot be used now.")
    return str(card["id"])


def _card_path(name: str) -> str:
    return f"/v1/models/{quote(name, safe='/:')}"


def _can_be_pulled(name: str) -> bool:
    """Whether an unknown name is an address of the hub, or of the catalogue of models to pull."""
    from catalog.curated.collection import curated

    return "/" in name or curated().find(name) is not None


def _pulled(client: ServerClient, name: str, confirm: Confirm | None) -> str:
    """The id of a model that the user let be pulled. Raises ModelUnavailable without that."""
    if confirm is None or not confirm(f"{name} is not on this machine yet. Pull it?"):
        raise ModelUnavailable(f"{name} is not on this machine yet. Pull it with: {program()} pull {name}")
    return pull(client, name)


def pull(client: ServerClient, name: str) -> str:
    """Let the server pull a model, with its progress on standard error; returns the model's id.

    Ctrl-C cancels the pull; a later one goes on from there. Raises ConfigurationError if it fails.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TimeRemainingColumn(compact=True),
    )
    told: Json = {}
    try:
        with (
            Progress(*columns, console=terminal.console(stderr=True), transient=True, expand=True) as bars,
            client.stream("POST", "/v1/models/pulls", json={"model": name, "stream": True}) as response,
        ):
            bar = bars.add_task(f"pulling {name}", total=None)
            for told in events(response):
                stage = told["stage"] or told["status"]
                done, total = told["completed_bytes"], told["total_bytes"]
                bars.update(bar, description=f"{name}: {stage}", completed=done, total=total)
    except KeyboardInterrupt:
        if "id" in told:
            client.post(f"/v1/models/pulls/{told['id']}/cancel")
        raise
    if told.get("status") != "completed":
        problem = told.get("error") or {"message": f"the pull ended as {told.get('status')}."}
        raise ConfigurationError(f"{name} was not pulled: {problem['message']}")
    return str(told["models"][0])


def confirmed(question: str) -> bool:
    """Ask on the terminal; Enter is yes. Without a terminal the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(f"{question} [Y/n] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("", "y", "yes")


def listed(client: ServerClient) -> list[Json]:
    """The cards of the models that can chat now, and of the router's names."""
    cards: list[Json] = client.get("/v1/models")["data"]
    return [card for card in cards if card.get("router") or _CHAT in card["capabilities"]]


def _chatting(client: ServerClient) -> list[str]:
    return [card["id"] for card in listed(client) if not card.get("router") and card.get("available")]
