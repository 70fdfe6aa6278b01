"""``roundhouse config``: the settings in force and their origins, a check, a sample file, a schema for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from catalog.errors import ConfigurationError
from server.commands import terminal
from server.commands.client import AdminKey, Config, ServerClient, Url
from server.commands.support.statuses import UsageError
from server.configuration.origins import SettingInForce, in_force
from server.settings import FILE_NAME, find_file, load_settings

app = typer.Typer(no_args_is_help=True, help="Show, check and write settings.")
LONGEST = 60
"""Characters of a value in the table; --json has the whole."""


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="A setting or a section. Default: all.")] = None,
    running: Annotated[
        bool, typer.Option("--running", help="Those of the running server, with its flags, instead of new ones'.")
    ] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only those that are no defaults.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with whole values.")] = False,
    url: Url = None,
    key: AdminKey = None,
    config: Config = None,
) -> None:
    """Show the settings in force, and the file, variable or flag that each comes from. No secret is shown."""
    if running or url is not None:
        found: list[SettingInForce] = ServerClient(url, key, config).get("/v1/admin/settings")["settings"]
    else:
        found = in_force(load_settings(config))
    if name is not None:
        found = [each for each in found if each["name"] == name or each["name"].startswith(f"{name}.")]
        if not found:
            raise UsageError(f"There is no setting and no section '{name}'. All: roundhouse config show")
    if changed:
        found = [each for each in found if each["origin"] != "default"]
    if as_json:
        terminal.say(json.dumps(found, indent=1))
        return
    table = terminal.table()
    for column in ("SETTING", "VALUE", "FROM"):
        table.add_column(column, overflow="fold")
    for each in found:
        table.add_row(each["name"], _value(each["value"]), _origin(each))
    terminal.console().print(table)


@app.command(name="check")
def check_settings(config: Config = None) -> None:
    """Check the settings file and the environment: one line per error, with its place. Status 1 for errors."""
    from server.configuration.checking import check

    findings = check(config)
    for each in findings:
        terminal.say(str(each), err=each.error)
    errors = sum(each.error for each in findings)
    if errors:
        terminal.say(f"{errors} error{'s' if errors > 1 else ''}", err=True)
        raise typer.Exit(1)
    terminal.say(f"{find_file(config) or 'No settings file, and the environment'}: no errors")


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="The file to write; '-' prints it.")] = Path(FILE_NAME),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a settings file with every setting, commented out, and the schema that editors read beside it."""
    from server.configuration.sample import sample
    from server.configuration.schema import SCHEMA_FILE, file_schema

    if str(file) == "-":
        terminal.say(sample(), nl=False)
        return
    if file.exists() and not force:
        raise ConfigurationError(f"{file} is there already. Name another file, or replace it with --force.")
    try:
        file.write_text(sample(), encoding="utf-8")
        beside = file.with_name(SCHEMA_FILE)
        beside.write_text(json.dumps(file_schema(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be written: {error.strerror}.") from error
    terminal.say(f"{file}: every setting, commented out; {beside}: their schema, for editors")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings file, for editors that complete and check TOML."""
    from server.configuration.schema import file_schema

    terminal.say(json.dumps(file_schema(), indent=1))


def _value(value: Any) -> str:
    from server.configuration.tree import toml

    told = "" if value is None else toml(value)
    return told if len(told) <= LONGEST else f"{told[: LONGEST - 2]}.."


def _origin(setting: SettingInForce) -> str:
    where = setting["where"]
    if where is None:
        return setting["origin"]
    return f"${where}" if setting["origin"] == "environment" else where
