"""The model of a chat: looked up on the server, and pulled there if the user wants it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from catalog.errors import ConfigurationError, ModelUnavailable
from catalog.types import Json
from server.commands import terminal
from server.commands.client import ServerClient
from server.commands.support.statuses import ServerAnswered

Confirm = Callable[[str], bool]
_CHAT = "chat"


def choose(client: ServerClient, name: str, confirm: Confirm | None) -> str:
    """The id under which the server chats with this model: an id, an alias, ``auto`` or an address of the hub.

    ``confirm`` is asked before a model is pulled; without it, no model is. Raises the server's error for an
    unknown name, ModelUnavailable for a model that is not on this machine, ConfigurationError for one that does
    not chat.
    """
    try:
        card = client.get(f"/v1/models/{name}")
    except ServerAnswered as error:
        if error.status != 404 or "/" not in name or confirm is None or not confirm(f"Pull {name} from the hub?"):
            raise
        before = _ids(client)
        pull(client, name)
        new = [each for each in _ids(client) if each not in before]
        return choose(client, new[0] if new else name, None)
    if card.get("router"):
        return str(card["id"])
    if _CHAT not in card["capabilities"]:
        others = ", ".join(each for each in _chatting(client)[:5])
        raise ConfigurationError(f"{card['id']} does not chat. Models that do: {others or 'none yet'}.")
    missing = card.get("available") is False and card.get("downloaded") is False
    if missing and confirm is not None and confirm(f"{card['id']} is not on this machine yet. Pull it?"):
        pull(client, card["id"])
    elif card.get("available") is False:
        raise ModelUnavailable(card.get("unavailable_reason") or f"{card['id']} cannot be used now.")
    return str(card["id"])


def pull(client: ServerClient, name: str) -> None:
    """Let the server pull a model; the progress is on standard error. Raises ConfigurationError if it fails."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TimeRemainingColumn(compact=True),
    )
    with (
        Progress(*columns, console=terminal.console(stderr=True), transient=True, expand=True) as bars,
        client.stream("POST", "/api/pull", json={"model": name}) as response,
    ):
        bar = bars.add_task(f"pulling {name}", total=None)
        for line in response.iter_lines():
            told: Json = json.loads(line) if line else {}
            if "error" in told:
                raise ConfigurationError(f"{name} could not be pulled: {told['error']}")
            if "total" in told:
                bars.update(bar, completed=told["completed"], total=told["total"])


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


def _ids(client: ServerClient) -> list[str]:
    return [card["id"] for card in client.get("/v1/models", all="true")["data"]]
