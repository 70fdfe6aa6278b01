"""``router export`` and ``router import``: what a server has learned of models, for another to start with."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from catalog.errors import ConfigurationError
from catalog.types import Json
from server.commands import terminal
from server.commands.client import AdminKey, Config, ServerClient, Url

app = typer.Typer(help="Export and import what the router has learned.", no_args_is_help=True)
_PATH = "/v1/admin/priors"
_MAX_BYTES = 64 * 1024 * 1024


@app.command("export")
def export_profile(
    file: Annotated[Path | None, typer.Argument(help="File to write. Default: standard output.")] = None,
    url: Url = None,
    key: AdminKey = None,
    config: Config = None,
) -> None:
    """Write what a running server has learned of models. It contains no prompt, key or address."""
    profile = ServerClient(url, key, config).get(_PATH)
    text = json.dumps(profile, indent=1) + "\n"
    if file is None or str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigurationError(f"'{file}' cannot be written: {error.strerror}.") from None
    terminal.say(f"{len(profile['models'])} models -> {file}")


@app.command("import")
def import_profile(
    file: Annotated[
        Path,
        typer.Argument(help="An exported profile, or qualities by model (JSON or TOML); - is standard input."),
    ],
    weight: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="Worth of a profile's observation beside one here. Default: 0.5."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Where it comes from, as the report shows it. Default: the file's name.")
    ] = None,
    url: Url = None,
    key: AdminKey = None,
    config: Config = None,
) -> None:
    """Let a running server start with a profile. Models that it has observed itself keep what it learned."""
    body = _read(file)
    body.setdefault("source", source or ("standard input" if str(file) == "-" else file.name))
    if source is not None:
        body["source"] = source
    if weight is not None:
        body["weight"] = weight
    told = ServerClient(url, key, config).post(_PATH, body)
    taken, unknown = told["taken"], told.get("unknown_models", [])
    kept = sorted(name for name, was in taken.items() if not was)
    terminal.say(f"{len(taken) - len(kept) - len(set(unknown) - set(kept))} models imported")
    if unknown:
        terminal.say(f"no model of this server, kept for one that may come: {', '.join(unknown)}")
    if kept:
        terminal.say(f"observed here, and kept as learned: {', '.join(kept)}")


def _read(file: Path) -> Json:
    try:
        if str(file) == "-":
            content = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with file.open("rb") as opened:
                content = opened.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigurationError(f"'{file}' has more than {_MAX_BYTES // 2**20} MiB.")
        text = content.decode("utf-8-sig")
        toml = file.suffix.lower() == ".toml"
        body = tomllib.loads(text) if toml else json.loads(text)
        json.dumps(body, allow_nan=False)
    except OSError as error:
        raise ConfigurationError(f"'{file}' cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError, RecursionError) as error:  # a date of TOML, and NaN, are nothing of JSON
        raise ConfigurationError(f"'{file}' is no JSON or TOML of numbers and texts: {error}.") from None
    if not isinstance(body, dict):
        raise ConfigurationError(f"'{file}' is no profile: a profile is an object with 'models' or 'benchmarks'.")
    return body
