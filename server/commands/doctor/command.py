"""``doctor``: a report of this machine and of a running server, which ends with the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog import starter
from catalog.catalog import Catalog
from catalog.errors import RoundhouseError
from server.commands import terminal
from server.commands.client import AdminKey, Config, ServerClient, Url
from server.commands.terminal import AsJson, bytes_of
from server.settings import load_settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

app = typer.Typer()


@app.command()
def doctor(
    show_all: Annotated[
        bool, typer.Option("--all", help="Also engines for other machines, and providers without a key.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: AdminKey = None,
    config: Config = None,
) -> None:
    """Report what matters on this machine and of a running server, and the next step."""
    from server.commands.doctor.diagnosis import diagnose, next_step

    facts = diagnose(load_settings(config))
    report, unreachable = None, None
    try:
        report = ServerClient(url, key, config).get("/v1/admin/report")
    except RoundhouseError as error:
        unreachable = error.message
    starters = frozenset(row.id for row in starter.starters(Catalog.load()))
    facts["next"] = next_step(facts, report, starters)
    if as_json:
        terminal.print_json({**facts, "server": report, "server_error": unreachable})
        return
    console = terminal.console()
    _print_machine(console, facts, show_all=show_all)
    if report is None:
        console.print(f"\n{unreachable}", highlight=False, markup=False)
    else:
        _print_report(console, report, show_all=show_all)
    console.print(f"\nNext: {facts['next']}", style="bold", highlight=False, soft_wrap=True)


def _print_machine(console: Console, facts: dict[str, Any], *, show_all: bool) -> None:
    machine = facts["machine"]
    console.print(
        f"{machine['os']} {machine['architecture']}, {machine['cores']} cores, {bytes_of(machine['memory'])}",
        highlight=False,
    )
    for device in machine["devices"]:
        budget = bytes_of(device["budget"])
        console.print(f"  {device['id']}: {device['name']}, {budget} for models", highlight=False)
    console.print(f"data: {facts['data_dir']}", highlight=False, soft_wrap=True)
    table = terminal.table()
    table.add_column("ENGINE")
    table.add_column("STATE", overflow="fold")
    for each in facts["engines"]:
        if each["matters"] or show_all:
            table.add_row(each["engine"], "ready" if each["ready"] else each["missing"])
    console.print(table)
    console.print()
    models = terminal.table()
    models.add_column("STARTER MODEL")
    models.add_column("STATE", overflow="fold")
    for model, state in facts["starter"].items():
        models.add_row(model, state)
    console.print(models)
    if facts["recommended"]:
        console.print()
        _print_advice(console, facts)
    own = [model for model in facts["chat"] if model not in facts["starter"]]
    if own:
        console.print(f"chat models of your own: {', '.join(own)}", highlight=False, soft_wrap=True)
    for line in (*facts["problems"], *facts["remarks"]):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print_advice(console: Console, facts: dict[str, Any]) -> None:
    """Print the models that this machine should run, and those of it that have a better one."""
    table = terminal.table()
    for column in ("RECOMMENDED FOR", "MODEL", "FETCH", "TOKENS/S"):
        table.add_column(column, overflow="fold")
    for each in facts["recommended"]:
        speed = each["tokens_per_second"]
        table.add_row(
            each["capability"],
            each["model"],
            f"{'' if each['size_is_exact'] else '~'}{bytes_of(each['size_bytes'])}",
            "" if speed is None else f"~{speed:.0f}",
        )
    console.print(table)
    for old, new in facts["upgrades"].items():
        console.print(f"{old}: a better one fits here, {new}", highlight=False)


def _print_report(console: Console, report: dict[str, Any], *, show_all: bool) -> None:
    if lag := report["state"]["lag_seconds"]:
        console.print(
            f"\nThe state has not been written for {lag:.0f} seconds: usage and limits lag. Free space on its "
            "disk, or start its server; the log says why (state.not_written).",
            style="bold red",
        )
    if (cluster := report["cluster"]) is not None:
        state = cluster["fault"] or f"{cluster['nodes']} nodes, {cluster['workers']} workers"
        console.print(f"cluster {cluster['address']}: {state}", highlight=False)
    models = report["models"]
    console.print(f"\n{len(models['usable'])} of {models['known']} models of the server can be used", style="bold")
    shown = [each for each in report["providers"] if show_all or each["usable"] or each["keys"]]
    if shown:
        console.print(_providers(shown))
    others = [each["provider"] for each in report["providers"] if each not in shown]
    if others:
        console.print(f"PROVIDERS not set up: {', '.join(others)} (--all says why)", highlight=False)
    console.print(_coverage(report))
    scenarios = terminal.table()
    for column in ("REQUEST", "MODEL", "REASON"):
        scenarios.add_column(column, overflow="fold")
    for each in report["scenarios"]:
        scenarios.add_row(each["scenario"], each["model"] or "no model", each["reason"])
    for use in ("speak", "transcribe"):
        chosen = report["speech"][use]
        scenarios.add_row(use, chosen["model"] or "no model", chosen["reason"])
    console.print(scenarios)


def _providers(listed: list[dict[str, Any]]) -> Table:
    table = terminal.table()
    for column in ("PROVIDER", "MODELS", "KEYS", "STATE"):
        table.add_column(column, overflow="fold")
    for each in listed:
        keys = [key for key in each["keys"] if not key["out"] and not key["resting_seconds"]]
        broken = ", ".join(f"{model} {state}" for model, state in each["breakers"].items())
        state = "ready" if each["usable"] else each["reason"] or "no models"
        table.add_row(
            each["provider"],
            str(each["models"]),
            f"{len(keys)} of {len(each['keys'])}" if each["needs_key"] else "not needed",
            f"{state}; breakers: {broken}" if broken else state,
        )
    return table


def _coverage(report: dict[str, Any]) -> Table:
    table = terminal.table()
    for column in ("CAPABILITY", "AUTO", "MODELS"):
        table.add_column(column, overflow="fold")
    for capability, models in report["coverage"].items():
        if models:
            table.add_row(capability, report["defaults"].get(capability) or "", ", ".join(models))
    return table
