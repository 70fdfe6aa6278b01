"""``ps``, ``load``, ``warm``, ``unload`` and ``logs``: the workers of a running server."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from catalog.types import Json
from server.commands import terminal
from server.commands.client import AdminKey, Config, ServerClient, Url
from server.commands.library.local import ModelId
from server.commands.library.registering import toml_fields
from server.commands.support.completion import complete_model
from server.commands.support.options import gives
from server.commands.terminal import AsJson, bytes_of

app = typer.Typer()


@app.command()
def ps(as_json: AsJson = False, url: Url = None, key: AdminKey = None, config: Config = None) -> None:
    """List the workers and devices of a running server."""
    document = ServerClient(url, key, config).get("/v1/admin/workers")
    if as_json:
        terminal.print_json(document)
        return
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
    for node in document.get("nodes", ()):
        console.print(f"node {node['name']} ({node['address']}): {_amounts(node)}", highlight=False)


def _amounts(node: Json) -> str:
    """The amounts of a node that replicas hold. Ray's own entries say nothing of use."""
    shown = []
    for name, total in sorted(node["total"].items()):
        if name.startswith("node:") or name == "object_store_memory":
            continue
        used = node["used"].get(name, 0)
        if name == "memory":
            shown.append(f"{bytes_of(int(used)) or '0 B'} of {bytes_of(int(total))} memory")
        else:
            shown.append(f"{used:g} of {total:g} {name}")
    return ", ".join(shown)


@app.command()
@gives(option="options")
def load(
    model: ModelId,
    keep_alive: Annotated[
        float | None, typer.Option(help="Seconds for which the model stays loaded when idle.")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of one request, its answer included.")] = None,
    slots: Annotated[int | None, typer.Option(help="Requests that it works on at a time.")] = None,
    kv_cache: Annotated[str | None, typer.Option(help="Number format of the KV cache, such as q8_0.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="Of the weights, where the engine makes it as it loads, such as int8.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="One of the engine's as TOML, such as batch=512. Repeatable."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="End the requests of a model that is loaded with other options.")
    ] = False,
    url: Url = None,
    key: AdminKey = None,
    config: Config = None,
) -> None:
    """Load a model now, perhaps with options that hold until it is unloaded."""
    given = {
        "keep_alive": keep_alive,
        "context": context,
        "slots": slots,
        "kv_cache": kv_cache,
        "quantization": quantization,
        "options": toml_fields(option) if option else None,
        "force": force or None,
    }
    body = {name: value for name, value in given.items() if value is not None}
    document = ServerClient(url, key, config).post(f"/v1/models/{quote(model, safe='/')}/load", body)
    typer.echo(f"{document['id']} is loaded")


@app.command()
@gives()
def warm(
    models: Annotated[list[str], typer.Argument(help="Models to load.", autocompletion=complete_model)],
    keep_alive: Annotated[
        float | None, typer.Option(help="Seconds for which each model stays loaded when idle.")
    ] = None,
    url: Url = None,
    key: AdminKey = None,
    config: Config = None,
) -> None:
    """Load several models in turn. Exit status 1 if they do not fit together."""
    server = ServerClient(url, key, config)
    body = {} if keep_alive is None else {"keep_alive": keep_alive}
    requested = [server.post(f"/v1/models/{quote(model, safe='/')}/load", body)["id"] for model in models]
    loaded = {w["model"] for w in server.get("/v1/admin/workers")["workers"] if w["state"] == "ready"}
    for model in requested:
        typer.echo(f"{model} is loaded" if model in loaded else f"{model} was evicted to make room for the others")
    if not loaded.issuperset(requested):
        raise typer.Exit(1)


@app.command()
def unload(
    model: ModelId,
    force: Annotated[bool, typer.Option("--force", help="End its running requests with an error.")] = False,
    url: Url = None,
    key: AdminKey = None,
    config: Config = None,
) -> None:
    """Unload a model once its running requests have ended."""
    path = f"/v1/models/{quote(model, safe='/')}/unload"
    document = ServerClient(url, key, config).post(path, {"force": force})
    typer.echo(f"{document['id']} is unloaded" if document.get("unloaded", True) else f"{model} was not loaded")


@app.command()
def logs(
    model: ModelId,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, help="How many lines to show.")] = 200,
    url: Url = None,
    key: AdminKey = None,
    config: Config = None,
) -> None:
    """Show the end of a worker's log, also after the worker has ended."""
    path = f"/v1/admin/workers/{quote(model, safe='/')}/log"
    document = ServerClient(url, key, config).get(path, lines=lines)
    text = document if isinstance(document, str) else document["log"]
    if not text:
        typer.echo(f"{model} has no log: it was never loaded, or wrote nothing", err=True)
    typer.echo(text, nl=False)
