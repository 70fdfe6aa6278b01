"""The command line: ``roundhouse serve``, and what an operator asks of models, workers and keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from catalog.errors import RoundhouseError
from server.commands import inspect, keys, models, router, smoke, workers

app = typer.Typer(
    name="roundhouse",
    help="An OpenAI-compatible inference server that runs local models and routes to remote ones.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_show_locals=False,
)
for group in (models, workers, router, inspect):
    group.register(app)
app.add_typer(keys.app, name="keys")
app.add_typer(smoke.app, name="smoke")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: 8000.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file. Default: ./roundhouse.toml if it exists.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Gateway processes that share the workers.")] = None,
    starter: Annotated[
        bool, typer.Option("--starter", help="Fetch the starter models first if they are missing.")
    ] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve without API keys on any address.")] = False,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Serve the API."""
    from server.run import run
    from server.settings import load_settings

    server = _given(host=host, port=port, processes=workers, insecure=insecure or None)
    overrides = _given(server=server or None, log=_given(level=log_level) or None)
    settings = load_settings(config, **overrides)
    if starter:
        models.fetch_starter(settings)
    raise typer.Exit(run(settings, reload=lambda: load_settings(config, **overrides)))


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(installed("roundhouse"))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def main() -> None:
    """Entry point: an error of ours is one line on standard error and exit status 1."""
    try:
        app()
    except RoundhouseError as error:
        typer.echo(f"roundhouse: {error.message}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
