"""``ps``, ``load``, ``unload`` and ``logs``: what a running server has loaded."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from server.commands import terminal
from server.commands.client import Config, Key, Server, Url
from server.commands.models import bytes_of

app = typer.Typer()


@app.command()
def ps(url: Url = None, key: Key = None, config: Config = None) -> None:
    """The workers and devices of a running server."""
    document = Server(url, key, config).get("/v1/admin/workers")
    table = terminal.table()
    for column in (
        "MODEL",
        "ENGINE",
        "DEVICE",
        "STATE",
        "PID",
        "MEMORY",
        "BUSY",
        "QUEUED",
        "RESTARTS",
        "UNLOADS IN",
    ):
        table.add_column(column, no_wrap=True)
    for worker in document["workers"]:
        expires = worker.get("expires_in")
        table.add_row(
            worker["model"],
            worker["engine"],
            worker["device"],
            worker["state"],
            str(worker.get("pid") or ""),
            bytes_of(worker.get("memory")),
            f"{worker['busy']}/{worker['slots']}",
            str(worker["queued"]),
            str(worker["restarts"]),
            f"{expires:.0f} s" if expires is not None else "",
        )
    console = terminal.console()
    console.print(table)
    for device in document["devices"]:
        used, budget = bytes_of(device["used"]) or "0 B", bytes_of(device["budget"])
        console.print(f"{device['id']}: {used} of {budget} in use ({device['name']})", highlight=False)


@app.command()
def load(
    model: str,
    keep_alive: Annotated[
        float | None, typer.Option(help="Seconds that the model stays loaded when idle.")
    ] = None,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Load a model now."""
    body = {} if keep_alive is None else {"keep_alive": keep_alive}
    document = Server(url, key, config).post(f"/v1/models/{quote(model, safe='/')}/load", body)
    typer.echo(f"{document['id']} is loaded")


@app.command()
def warm(
    models: Annotated[list[str], typer.Argument(help="Models to have ready.")],
    keep_alive: Annotated[float | None, typer.Option(help="Seconds that each stays loaded when idle.")] = None,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Load several models, one after the other, and tell which of them are loaded then."""
    server = Server(url, key, config)
    body = {} if keep_alive is None else {"keep_alive": keep_alive}
    asked = [server.post(f"/v1/models/{quote(model, safe='/')}/load", body)["id"] for model in models]
    loaded = {w["model"] for w in server.get("/v1/admin/workers")["workers"] if w["state"] == "ready"}
    for model in asked:
        typer.echo(f"{model} is loaded" if model in loaded else f"{model} had to make room for the others")
    if not loaded.issuperset(asked):
        raise typer.Exit(1)


@app.command()
def unload(model: str, url: Url = None, key: Key = None, config: Config = None) -> None:
    """Let a model's requests end, then unload it."""
    document = Server(url, key, config).post(f"/v1/models/{quote(model, safe='/')}/unload")
    typer.echo(f"{document['id']} is unloaded" if document.get("unloaded", True) else f"{model} was not loaded")


@app.command()
def logs(
    model: str,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000)] = 200,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """The end of a worker's log, also after its death."""
    path = f"/v1/admin/workers/{quote(model, safe='/')}/log"
    document = Server(url, key, config).get(path, lines=lines)
    typer.echo(document if isinstance(document, str) else document["log"], nl=False)
