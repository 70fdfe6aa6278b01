"""``doctor``: what this machine is able to do."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from catalog import starter
from catalog.hardware import detect
from server.commands.client import Config
from server.commands.models import bytes_of, shelf
from server.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(doctor)


def doctor(config: Config = None) -> None:
    """This machine: its devices, the engines that are installed, the starter models, and what would fit."""
    from backends.workers.engines.registry import builtin_engines

    settings = load_settings(config)
    catalog, store = shelf(settings)
    console = Console(markup=False)
    machine = detect()
    console.print(f"{machine.os} {machine.architecture}, {machine.cores} cores, {bytes_of(machine.memory)}")
    for device in machine.devices:
        console.print(f"  {device.id}: {device.name}, {bytes_of(device.budget)} for models", highlight=False)
    table = Table(box=None, header_style="bold")
    table.add_column("ENGINE")
    table.add_column("STATE", overflow="fold")
    engines = builtin_engines()
    for name in sorted(engines):
        missing = engines.missing(name)
        table.add_row(name, "ready" if missing is None else missing.message)
    for model in starter.starters(catalog, optional=True):
        table.add_row(model.id, store.missing(model) or "ready")
    console.print(table)
    console.print(f"data: {settings.data_dir}", highlight=False)
