"""``route``, ``trace``, ``outcome``, ``usage``, ``pin`` and ``discover``: the router, seen from the terminal."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.errors import ConfigurationError
from catalog.types import Json
from server.commands import terminal
from server.commands.client import Config, Key, Server, Url
from server.settings import load_settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

app = typer.Typer()
_USAGE = ("day", "model", "key", "calls", "input_tokens", "output_tokens", "units", "cost")
"""The columns that a terminal has room for; --csv gives them all."""
AsJson = Annotated[bool, typer.Option("--json", help="The server's whole answer.")]


@app.command()
def route(
    prompt: Annotated[str, typer.Argument(help="What a user would ask.")],
    model: Annotated[
        str, typer.Option(help="auto, auto:fast, auto:best, auto:cheap, auto:local, or a name.")
    ] = "auto",
    task: Annotated[
        str | None, typer.Option(help="What kind of work it is; default: read from the prompt.")
    ] = None,
    workload: Annotated[str | None, typer.Option(help="interactive, batch or background.")] = None,
    local_only: Annotated[bool, typer.Option("--local-only", help="It must not leave this runtime.")] = False,
    max_cost: Annotated[float | None, typer.Option(min=0, help="US dollars.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Which model a running server would choose for a prompt, and why. Nothing is executed."""
    wishes = {"task": task, "workload": workload, "local_only": local_only or None, "max_cost": max_cost}
    body: Json = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    body["routing"] = {name: value for name, value in wishes.items() if value is not None}
    told = Server(url, key, config).post("/v1/route", body)
    if as_json:
        typer.echo(json.dumps(told, indent=1))
        return
    console = terminal.console()
    console.print(f"[bold]{told['model'] or 'no model'}[/bold] ({told['strategy']})", highlight=False)
    console.print(told["reason"], highlight=False, markup=False)
    console.print(_candidates(told))
    _print_exclusions(console, told["excluded"])


def _candidates(told: Json) -> Table:
    table = terminal.table()
    for column in ("", "CAN ANSWER", "SCORE", "QUALITY", "SECONDS", "DOLLARS", "FAILS WITH"):
        table.add_column(column, overflow="fold")
    order = {name: str(place) for place, name in enumerate(told["order"], 1)}
    for each in told["candidates"]:
        cost = each["cost_dollars"]
        table.add_row(
            order.get(each["model"], ""),
            each["model"],
            f"{each['score']:.3f}",
            f"{each['quality']:.2f}",
            f"{each['latency_seconds']:.2f}" if each["latency_seconds"] is not None else "",
            "unknown" if cost is None else f"{cost:.6f}" if cost else "free",
            each["failure_domain"],
        )
    return table


def _print_exclusions(console: Console, excluded: list[Json]) -> None:
    """One line per reason, with the models that it keeps out."""
    by_reason: dict[str, list[str]] = {}
    for each in excluded:
        by_reason.setdefault(each["reason"], []).append(each["model"])
    if by_reason:
        console.print("\n[bold]CANNOT[/bold]")
    for reason, models in by_reason.items():
        console.print(f"  {', '.join(models)}: {reason}", highlight=False, markup=False)


@app.command()
def trace(
    trace_id: Annotated[str, typer.Argument(help="The x-roundhouse-trace header of an answer.")],
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """What happened to a request, attempt by attempt."""
    found = Server(url, key, config).get(f"/v1/traces/{trace_id}")
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    console = terminal.console()
    asked = found["request"]
    console.print(
        f"{found['status']}, answered by [bold]{found['answered_by'] or 'nobody'}[/bold]; asked for "
        f"{asked['requested']}: {asked['capability']}, {asked['task']}, {asked['complexity']}",
        highlight=False,
    )
    console.print(found["plan"]["reason"], highlight=False, markup=False)
    table = terminal.table()
    for column in ("", "MODEL", "RESULT", "QUEUED", "FIRST", "WHOLE", "TOKENS", "DOLLARS", "VALID", "ERROR"):
        table.add_column(column, overflow="fold")
    for each in found["attempts"]:
        table.add_row(*_attempt(each))
    console.print(table)
    if found["error"]:
        console.print(f"{found['error']['code']}: {found['error']['message']}", highlight=False, markup=False)


def _attempt(each: Json) -> tuple[str, ...]:
    first, cost = each["first_chunk"], each["cost"]
    return (
        str(each["attempt"]),
        each["model"],
        each["result"],
        f"{each['queued']:.2f} s",
        "" if first is None else f"{first:.2f} s",
        f"{each['duration']:.2f} s",
        f"{each['usage']['input']} + {each['usage']['output']}",
        "unknown" if cost is None else f"{cost:.6f}",
        {True: "yes", False: "no", None: ""}[each["valid"]],
        each["error"] or "",
    )


@app.command()
def outcome(
    trace_id: Annotated[str, typer.Argument(help="The x-roundhouse-trace header of an answer.")],
    score: Annotated[float | None, typer.Option(min=0, max=1, help="How good it was, from 0 to 1.")] = None,
    accepted: Annotated[bool | None, typer.Option("--accepted/--rejected", help="Or just whether.")] = None,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Tell the router whether an answer was good; it learns for that kind of request."""
    if (score is None) == (accepted is None):
        raise ConfigurationError("Say how good the answer was: --score 0.8, or --accepted, or --rejected.")
    said = {"accepted": accepted} if score is None else {"score": score}
    told = Server(url, key, config).post("/v1/outcomes", {"trace": trace_id, **said})
    quality = told["expected_quality"]
    typer.echo(
        f"{told['model']} for {told['task']}: expected quality {quality['before']:.3f} -> {quality['after']:.3f}"
    )


@app.command()
def usage(
    start: Annotated[str | None, typer.Option(help="First day, as 2026-01-31. Default: 30 days ago.")] = None,
    end: Annotated[str | None, typer.Option(help="Last day. Default: today, UTC.")] = None,
    by: Annotated[str | None, typer.Option(help="day, model, key: one or several, with commas.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="As CSV.")] = False,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """What was used and what it cost, by day, model and key."""
    form = "csv" if csv else "json"
    told = Server(url, key, config).get("/v1/usage", start=start, end=end, by=by, format=form)
    if csv:
        typer.echo(told, nl=False)
        return
    rows = told["data"]
    names = [name for name in _USAGE if rows and name in rows[0]]
    table = terminal.table()
    for name in names:
        table.add_column(name.replace("_", " ").upper(), overflow="fold", no_wrap=name in ("day", "model"))
    for row in [*rows, told["total"]]:
        table.add_row(*(_shown(row.get(name, "")) for name in names))
    terminal.console().print(table if rows else "nothing was used")


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@app.command()
def pin(
    alias: Annotated[str | None, typer.Argument(help="auto, auto:fast, ..., or a name of several models.")] = None,
    model: Annotated[str | None, typer.Argument(help="The embedding model it stands for from now on.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Let the router choose anew.")] = False,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Show or change which embedding model an alias stands for. Vectors from before and after do not compare."""
    server = Server(url, key, config)
    if alias is None:
        for name, pinned in sorted(server.get("/v1/admin/pins")["pins"].items()):
            typer.echo(f"{name} -> {pinned}")
        return
    if (model is None) != remove:
        raise ConfigurationError("Name the model to pin the alias to, or say --remove.")
    told = server.post("/v1/admin/pins", {"alias": alias, **({} if model is None else {"model": model})})
    typer.echo(f"{told['alias']} -> {told['model'] or 'chosen anew'} (was {told['before'] or 'not pinned'})")


@app.command()
def discover(as_json: AsJson = False, config: Config = None) -> None:
    """What endpoints with discover = true, and the folders that the settings name, have now. Needs no server."""
    from server.catalog_updates import look_once

    found = asyncio.run(look_once(load_settings(config)))
    if as_json:
        listed = [
            {
                "source": each.source,
                "error": each.error,
                "models": [row.model_dump(mode="json", exclude_none=True) for row in each.rows or ()],
            }
            for each in found
        ]
        typer.echo(json.dumps(listed, indent=1))
        return
    if not found:
        typer.echo(
            "nothing to look at: set discover = true in an [[endpoint]], or folders in [discovery]", err=True
        )
    table = terminal.table()
    for column in ("SOURCE", "MODEL", "CAN", "CONTEXT"):
        table.add_column(column, overflow="fold")
    for each in found:
        if each.error:
            table.add_row(each.source, f"({each.error})", "", "")
        for row in each.rows or ():
            table.add_row(
                each.source, row.id, ", ".join(sorted(row.capabilities)), str(row.limits.context_window or "")
            )
    terminal.console().print(table)
