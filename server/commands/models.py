"""``pull`` and ``rm``: the models on this machine. They need no running server."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from backends.workers.engines.registry import Engines, builtin_engines
from catalog import starter
from catalog.catalog import Catalog
from catalog.curated.advice import CAPABILITIES
from catalog.curated.choosing import Fit
from catalog.curated.collection import curated
from catalog.discovery import rows_from_folder
from catalog.errors import PullError
from catalog.hardware import detect
from catalog.model import Capability, Model, PathSource
from catalog.store.store import Store
from routing.upstreams.availability import Availability
from routing.upstreams.provider_keys import SecretResolver, needs_key, source_of
from server.advising.models import recommended, wanted_of
from server.catalog_updates import read_catalog
from server.commands.support.completion import complete_model, complete_pull
from server.commands.support.progress import PullProgress
from server.commands.terminal import bytes_of
from server.library import pull_into
from server.settings import Settings, load_settings

app = typer.Typer()
Config = Annotated[
    Path | None, typer.Option("--config", help="Settings file. Default: ./roundhouse.toml if it exists.")
]
ModelId = Annotated[str, typer.Argument(help="Id or alias of the model.", autocompletion=complete_model)]
Token = Annotated[
    str | None,
    typer.Option(envvar="HF_TOKEN", show_envvar=True, help="Access token for gated repositories of the hub."),
]


def catalog_and_store(settings: Settings) -> tuple[Catalog, Store]:
    """The catalogue and the store of these settings."""
    store = Store(settings.data_dir / "models")
    return read_catalog(settings, store), store


def fetch_starter(settings: Settings) -> bool:
    """Fetch the starter models that are missing; returns whether any was."""
    catalog, store = catalog_and_store(settings)
    if missing := starter.absent(catalog, store):
        with PullProgress(len(missing)) as progress:
            starter.ensure(catalog, store, progress)
    return bool(missing)


@app.command()
def pull(
    what: Annotated[
        str,
        typer.Argument(
            help="A model by name (qwen3.5:9b, qwen3-8b-q8_0), an address of the hub "
            "(hf.co/OWNER/REPOSITORY:Q4_K_M, a pasted link), 'recommended' or 'starter'.",
            autocompletion=complete_pull,
        ),
    ],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of the repository.")] = "main",
    name: Annotated[
        str | None, typer.Option(help="Id of the model in the catalogue. Default: from its name.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Take the form for this engine: llamacpp, mlx, vllm...")
    ] = None,
    capability: Annotated[
        list[str] | None, typer.Option(help="With 'recommended': only for this capability. Repeatable.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a large download.")] = False,
    token: Token = None,
    config: Config = None,
) -> None:
    """Download a model: resumed after an interruption, verified, moved into place once complete."""
    settings = load_settings(config)
    catalog, store = catalog_and_store(settings)
    machine = detect()
    wanted = wanted_of(settings, machine)
    if engine is not None:
        wanted = replace(wanted, engines=_only(engine, settings))
    names = [what] if what != "recommended" else _recommended(settings, store, capability, yes)
    memory = max((device.budget for device in machine.devices), default=None)
    for each in names:
        with PullProgress() as progress:
            ready = pull_into(
                store, catalog, each, progress,
                revision=revision, token=token, memory=memory, model_id=name, wanted=wanted,
            )  # fmt: skip
        for one in ready:
            typer.echo(f"{one} is ready")


def _only(engine: str, settings: Settings) -> frozenset[str]:
    """The one engine of this name. Raises EngineMissing if it cannot run here."""
    missing = builtin_engines(settings.workers.python).missing(engine)
    if missing is not None:
        raise missing
    return frozenset({engine})


def _recommended(settings: Settings, store: Store, capabilities: list[str] | None, yes: bool) -> list[str]:
    """The names of the recommended models that are not here yet, once they were shown and agreed to.

    Raises PullError if the disk has no room for them.
    """
    chosen: dict[str, Fit] = {}
    for advice in recommended(settings, capabilities=map(capability_named, capabilities or CAPABILITIES)):
        if advice.choice is not None:
            chosen.setdefault(advice.choice.entry.id, advice.choice)
    here = {stored.id for stored in store.list()}
    missing = [choice for name, choice in chosen.items() if name not in here]
    if not missing:
        typer.echo("The recommended models are on this machine." if chosen else "Nothing of the catalogue fits.")
        return []
    for choice in missing:
        typer.echo(
            f"{choice.entry.id:<28} {choice.quantization or '':<10} about {bytes_of(choice.size)}", err=True
        )
    total = sum(choice.size for choice in missing)
    free = free_bytes(store.root)
    if free is not None and total > free:
        raise PullError(f"They take about {bytes_of(total)}, and the disk has {bytes_of(free)} free.")
    if not yes and sys.stdin.isatty() and not typer.confirm(f"Download about {bytes_of(total)}?", default=True):
        raise typer.Exit(1)
    return [choice.entry.id for choice in missing]


def free_bytes(folder: Path) -> int | None:
    """Bytes that are free on the disk of a folder, or of the nearest one above it that exists."""
    for place in (folder, *folder.parents):
        if place.exists():
            return shutil.disk_usage(place).free
    return None


def capability_named(name: str) -> Capability:
    """The capability that a recommendation covers. Raises typer.BadParameter for another name."""
    for capability in CAPABILITIES:
        if name.casefold() == capability:
            return capability
    raise typer.BadParameter(f"there is no recommendation for {name!r}; there are: {', '.join(CAPABILITIES)}")


@app.command(name="rm")
def remove(model: ModelId, config: Config = None) -> None:
    """Delete a model from this machine. Files that another model needs stay."""
    catalog, store = catalog_and_store(load_settings(config))
    name = stored_id(model, catalog, store)
    freed = store.remove(name)
    typer.echo(f"removed {name}, {bytes_of(freed)} freed")


def stored_id(model: str, catalog: Catalog, store: Store) -> str:
    """The id under which a model of this name is on disk; the name itself where none is known."""
    here = {stored.id for stored in store.list()}
    if model in here:
        return model
    if catalog.knows(model):
        return next((row.id for row in catalog.replicas(model) if row.id in here), catalog.resolve(model).id)
    found = curated().find(model)
    return model if found is None else found.entry.id


def faults_of(models: Iterable[Model], store: Store, engines: Engines) -> dict[str, str]:
    """Say what the files of local models lack, by id: the look of a running server, with more time."""
    availability = Availability(store, engines.missing, engines.missing_file, timeout=10.0)
    availability.look(tuple(models))
    return {name: block.reason for name, block in availability.faults.items()}


def missing_key(model: Model, catalog: Catalog) -> str | None:
    """Say that a remote model's endpoint has no key in this environment; ``None`` where it has, or needs none."""
    endpoint = next((each for each in catalog.servers if each.id == model.endpoint_name), None)
    if model.local or endpoint is None or not needs_key(endpoint) or SecretResolver(os.environ)(endpoint):
        return None
    return f"no key is set for the endpoint '{endpoint.id}': set {source_of(endpoint)}"


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
