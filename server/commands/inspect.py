"""``doctor``: a report of this machine and of a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from catalog import starter
from catalog.errors import RoundhouseError
from catalog.hardware import detect
from server.commands import terminal
from server.commands.client import Config, Key, ServerClient, Url
from server.commands.models import broken_files, catalog_and_store, faults_of, state_of
from server.commands.terminal import bytes_of
from server.settings import load_settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

app = typer.Typer()


@app.command()
def doctor(url: Url = None, key: Key = None, config: Config = None) -> None:
    """Report devices, engines and starter models; with a running server also providers and routing."""
    from backends.workers.engines.registry import builtin_engines
    from backends.workers.placement import check_memory

    settings = load_settings(config)
    catalog, store = catalog_and_store(settings)
    console = terminal.console()
    machine = detect()
    console.print(f"{machine.os} {machine.architecture}, {machine.cores} cores, {bytes_of(machine.memory)}")
    for device in machine.devices:
        console.print(f"  {device.id}: {device.name}, {bytes_of(device.budget)} for models", highlight=False)
    check_memory(settings.workers.memory, machine.devices)
    table = terminal.table()
    table.add_column("ENGINE")
    table.add_column("STATE", overflow="fold")
    engines = builtin_engines(settings.workers.python)
    for name in sorted(engines):
        missing = engines.missing(name)
        table.add_row(name, "ready" if missing is None else missing.message)
    console.print(table)
    faults = faults_of(catalog, store, engines)
    models = terminal.table()
    models.add_column("STARTER MODEL")
    models.add_column("STATE", overflow="fold")
    for model in starter.starters(catalog, optional=True):
        models.add_row(model.id, faults.get(model.id) or state_of(model, None, engines))
    console.print(models)
    for line in broken_files(settings, catalog, faults):
        console.print(line, highlight=False, markup=False)
    for remark in catalog.remarks():
        console.print(remark, highlight=False, markup=False)
    console.print(f"data: {settings.data_dir}", highlight=False)
    try:
        report = ServerClient(url, key, config).get("/v1/admin/report")
    except RoundhouseError as error:
        console.print(f"\n{error.message}", highlight=False, markup=False)
        return
    _print_report(console, report)


def _print_report(console: Console, report: dict[str, Any]) -> None:
    if lag := report["state"]["lag_seconds"]:
        console.print(
            f"\nThe state has not been written for {lag:.0f} seconds: usage and limits lag. Free space on its "
            "disk, or start its server; the log says why (state.not_written).",
            style="bold red",
        )
    models = report["models"]
    console.print(f"\n{len(models['usable'])} of {models['known']} models of the server can be used", style="bold")
    console.print(_providers(report["providers"]))
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
