"""``pull``, ``rm``, ``list`` and ``show``: the models on this machine. They need no running server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from backends.registry import wire_of
from backends.workers.engines.registry import Engines
from catalog import starter
from catalog.catalog import Catalog
from catalog.discovery import rows_from_folder
from catalog.hardware import detect
from catalog.model import Model, PathSource
from catalog.store.progress import PullEvent, Stage
from catalog.store.store import Store
from catalog.types import Json
from routing.upstreams.availability import Availability
from server.catalog_updates import read_catalog, registered_in
from server.commands import terminal
from server.library import pull_into
from server.settings import Settings, load_settings

app = typer.Typer()
Config = Annotated[
    Path | None, typer.Option("--config", help="Settings file. Default: ./roundhouse.toml if it exists.")
]
ModelId = Annotated[str, typer.Argument(help="Id or alias of the model.")]
Token = Annotated[
    str | None,
    typer.Option(envvar="HF_TOKEN", show_envvar=True, help="Access token for gated repositories of the hub."),
]


def catalog_and_store(settings: Settings) -> tuple[Catalog, Store]:
    """The catalogue and the store of these settings."""
    store = Store(settings.data_dir / "models")
    return read_catalog(settings, store, registered=asyncio.run(registered_in(settings))), store


def fetch_starter(settings: Settings) -> None:
    """Fetch the starter models that are missing."""
    store = Store(settings.data_dir / "models")
    catalog = read_catalog(settings, store, registered=None)
    if starter.absent(catalog, store):
        with PullProgress() as progress:
            starter.ensure(catalog, store, progress)


@app.command()
def pull(
    what: Annotated[
        str, typer.Argument(help="'starter', a model of the catalogue, or hub:OWNER/REPOSITORY[:PATTERN].")
    ],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of the repository.")] = "main",
    name: Annotated[
        str | None, typer.Option(help="Id of the model in the catalogue. Default: from the repository's name.")
    ] = None,
    token: Token = None,
    config: Config = None,
) -> None:
    """Download a model: resumed after an interruption, verified, moved into place once complete."""
    settings = load_settings(config)
    catalog, store = catalog_and_store(settings)
    memory = max((device.budget for device in detect().devices), default=None)
    with PullProgress() as progress:
        names = pull_into(
            store, catalog, what, progress, revision=revision, token=token, memory=memory, model_id=name
        )
    for ready in names:
        typer.echo(f"{ready} is ready")


@app.command(name="rm")
def remove(model: ModelId, config: Config = None) -> None:
    """Delete a model from this machine. Files that another model needs stay."""
    catalog, store = catalog_and_store(load_settings(config))
    row = catalog.resolve(model) if catalog.get(model) else None
    freed = store.remove(row.id if row else model)
    typer.echo(f"removed {row.id if row else model}, {bytes_of(freed)} freed")


@app.command(name="list")
def list_models(
    show_all: Annotated[bool, typer.Option("--all", help="Include models that are not on this machine.")] = False,
    config: Config = None,
) -> None:
    """List the models on this machine, or with --all every model of the catalogue."""
    from backends.workers.engines.registry import builtin_engines

    settings = load_settings(config)
    catalog, store = catalog_and_store(settings)
    engines = builtin_engines(settings.workers.python)
    faults = faults_of(catalog, store, engines)
    sizes = {stored.id: stored.size for stored in store.list()}
    table = terminal.table()
    ends = ("ENDS",) if show_all else ()
    for column in ("MODEL", "ENGINE", "CAN", "CONTEXT", "SIZE", *ends, "STATE"):
        table.add_column(column, overflow="fold", no_wrap=column in ("MODEL", "ENDS", "STATE"))
    for model in catalog.models():
        fault = faults.get(model.id)
        own = isinstance(model.source, PathSource)  # a file of the user's is listed also when it is broken
        if not show_all and (not model.local or (fault is not None and not own)):
            continue
        table.add_row(
            model.id,
            model.engine or f"{model.endpoint_name}{_wire(model, catalog)}",
            ", ".join(sorted(model.endpoints)),
            str(model.limits.context_window or ""),
            bytes_of(sizes.get(model.id) or model.size.disk),
            *([str(model.ends or "")] if show_all else []),
            state_of(model, fault, engines),
        )
    console = terminal.console()
    console.print(table)
    for line in broken_files(settings, catalog, faults):
        console.print(line, highlight=False, markup=False)


@app.command()
def show(model: ModelId, config: Config = None) -> None:
    """Show a model's catalogue entry and its state on this machine, as JSON."""
    from backends.workers.engines.registry import builtin_engines

    settings = load_settings(config)
    catalog, store = catalog_and_store(settings)
    row = catalog.resolve(model)
    missing = faults_of([row], store, builtin_engines(settings.workers.python)).get(row.id)
    facts: Json = row.model_dump(mode="json", exclude_none=True)
    if (wire := wire_of(row, catalog)) is not None:
        facts["wire"] = wire
    terminal.console().print_json(data={**facts, "state": {"ready": missing is None, "missing": missing}})


def _wire(model: Model, catalog: Catalog) -> str:
    wire = wire_of(model, catalog)
    return f" ({wire})" if wire == "responses" else ""


def faults_of(models: Iterable[Model], store: Store, engines: Engines) -> dict[str, str]:
    """Say what the files of local models lack, by id: the look of a running server, with more time."""
    availability = Availability(store, engines.missing, engines.missing_file, timeout=10.0)
    availability.look(tuple(models))
    return {name: block.reason for name, block in availability.faults.items()}


def state_of(model: Model, fault: str | None, engines: Engines) -> str:
    """The state of a model on this machine in a word or two."""
    if not model.local:
        return "remote"
    if fault is not None:
        return "broken" if isinstance(model.source, PathSource) else "not pulled"
    return "ready" if model.engine is None or engines.missing(model.engine) is None else "no engine"


def broken_files(settings: Settings, catalog: Catalog, faults: Mapping[str, str]) -> list[str]:
    """A line for each file of the user's, in a row or in a folder of discovery, that cannot be loaded."""
    lines = [
        f"{model.id}: {faults[model.id]}"
        for model in catalog.models()
        if model.id in faults and (isinstance(model.source, PathSource) or model.origin == "user")
    ]
    for folder in settings.discovery.folders:
        if not folder.expanduser().is_dir():
            lines.append(f"{folder}: there is no such folder")
        rows_from_folder(folder.expanduser(), lambda path, reason: lines.append(f"{path}: {reason}"))
    return lines


def bytes_of(size: int | None) -> str:
    """A size in bytes as text, in decimal units."""
    if not size:
        return ""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


class PullProgress:
    """Shows a progress bar per file; when the output is no terminal, one line per stage."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

        self._console = terminal.console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[tuple[str, str | None], TaskID] = {}
        self._printed: set[tuple[str, Stage]] = set()

    def __enter__(self) -> PullProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, event: PullEvent) -> None:
        if not self._console.is_terminal:
            if (event.model, event.stage) not in self._printed and event.stage is not Stage.CACHED:
                self._printed.add((event.model, event.stage))
                self._console.print(f"{event.model}: {event.stage.value}", highlight=False)
            return
        if event.stage in (Stage.CACHED, Stage.METADATA):
            return
        key = (event.model, event.file)
        text = f"{event.model} {event.stage.value}"
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(text, total=event.total)
        self._bars.update(self._tasks[key], description=text, completed=event.done, total=event.total)
