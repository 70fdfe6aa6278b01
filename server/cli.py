"""The command line: ``roundhouse serve``, and the commands of :mod:`server.commands`."""

from __future__ import annotations

import gc
import signal
import sys
from collections import UserDict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from catalog.errors import ModelNotFound, PullError, RoundhouseError
from server.commands.support.statuses import EXPLAINED, status_of
from server.processes.standard_streams import open_standard_streams

if TYPE_CHECKING:
    from server.settings import Settings

COMMANDS = {
    "chat.command": ("run",),
    "media": ("embed", "speak", "transcribe", "draw"),
    "library.pulling": ("pull", "rm"),
    "library.listing": ("list", "show"),
    "library.recommend": ("recommend",),
    "workers": ("ps", "load", "warm", "unload", "logs"),
    "library.registering": ("register", "unregister"),
    "router": ("route", "trace", "outcome", "usage", "pin", "discover"),
    "doctor.command": ("doctor",),
    "batch": ("batch",),
    "calibrate": ("calibrate",),
    "running": ("stop",),
}
"""The commands of each module of :mod:`server.commands`."""
GROUPS = {"keys": "keys", "config": "config", "smoke": "smoke", "router": "profiles"}
"""Groups of commands, as in ``roundhouse keys create``, and their modules."""


class LazyCommands(UserDict[str, Any]):
    """Commands by name. A module is imported when one of its commands is looked up, so ``serve`` starts sooner."""

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        if isinstance(found, str):
            group = get_group(import_module(f"server.commands.{found}").app)
            found = group if name in GROUPS else group.commands[name]
            found.name = name
            self.data[name] = found
        return found


class CommandGroup(TyperGroup):
    """The commands of this module and of :mod:`server.commands`."""

    def __init__(self, *, commands: Any = None, **attributes: Any) -> None:
        elsewhere = {name: module for module, names in COMMANDS.items() for name in names}
        super().__init__(**attributes)
        own = dict(commands or {})
        first = {name: own.pop(name) for name in ("serve",) if name in own}
        self.commands = LazyCommands({**first, **elsewhere, **own, **GROUPS})


app = typer.Typer(
    name="roundhouse",
    cls=CommandGroup,
    help="An OpenAI-compatible inference server that runs local models and routes to remote ones.",
    no_args_is_help=True,
    add_completion=True,
    epilog=EXPLAINED,
    pretty_exceptions_show_locals=False,
)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: 8000.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file. Default: ./roundhouse.toml if it exists.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of gateway processes, which share the model workers. Default: 1."),
    ] = None,
    starter: Annotated[
        bool, typer.Option("--starter", help="First fetch the starter models that are missing.")
    ] = False,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Allow serving without API keys on an address that other machines can reach."
        ),
    ] = False,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error. Default: info.")] = None,
) -> None:
    """Serve the API."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(
            signal.SIGHUP, signal.SIG_IGN
        )  # until the server takes it: a start reads the settings anyway
    # Until tune_garbage_collector(): collections would take a tenth of the start-up time.
    gc.disable()
    from server.processes.run import run
    from server.settings import load_settings

    server = _without_none(host=host, port=port, processes=workers, insecure=insecure or None)
    overrides = _without_none(server=server or None, log=_without_none(level=log_level) or None)
    settings = load_settings(config, **overrides)
    if starter:
        _prepare(settings)
    raise typer.Exit(run(settings, reload=lambda: load_settings(config, **overrides)))


def _prepare(settings: Settings) -> None:
    """Fetch the starter models that are missing, once it is known that the server can start.

    The first time, say what else this machine can run.
    """
    from server.commands.library.pulling import fetch_starter
    from server.processes.data_folder import check_data_dir
    from server.processes.sockets import bind_public
    from server.program import program

    check_data_dir(settings.data_dir)
    bind_public(settings).close()
    try:
        fetched = fetch_starter(settings)
    except PullError as error:
        raise PullError(f"{error.message} To serve without the starter models: {program()} serve") from None
    if fetched:
        from server.advising.models import advice_lines, recommended

        for line in (
            "",
            "This machine can run more than the starter models:",
            *advice_lines(recommended(settings)),
        ):
            typer.echo(line, err=True)


def _print_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def options(
    asked: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """An OpenAI-compatible inference server that runs local models and routes to remote ones."""
    del asked  # its callback ends the command


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    from catalog.installing import DISTRIBUTION

    typer.echo(installed(DISTRIBUTION))


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Entry point. A RoundhouseError is one line on standard error, and its kind the exit status."""
    open_standard_streams()
    # What a command has begun ends with it: a download by pip, a folder of parts. The server has its own handler.
    signal.signal(signal.SIGTERM, _end)
    try:
        app()
    except RoundhouseError as error:
        message = error.message.replace(ModelNotFound.where, "All models: roundhouse list --all")
        typer.echo(f"roundhouse: {message}", err=True)
        sys.exit(status_of(error))


if __name__ == "__main__":
    main()
