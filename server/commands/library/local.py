"""The catalogue and the files of this machine, as commands read them without a server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from backends.workers.engines.registry import Engines
from catalog.catalog import Catalog
from catalog.discovery import rows_from_folder
from catalog.model import Model, PathSource
from catalog.store.store import Store
from routing.upstreams.availability import Availability
from routing.upstreams.provider_keys import SecretResolver, needs_key, source_of
from server.catalog_updates import read_catalog, registered_in
from server.commands.support.completion import complete_model
from server.settings import Settings

Config = Annotated[
    Path | None, typer.Option("--config", help="Settings file. Default: ./roundhouse.toml if it exists.")
]
ModelId = Annotated[str, typer.Argument(help="Id or alias of the model.", autocompletion=complete_model)]


def catalog_and_store(settings: Settings) -> tuple[Catalog, Store]:
    """The catalogue and the store of these settings."""
    store = Store(settings.data_dir / "models")
    return read_catalog(settings, store, registered=asyncio.run(registered_in(settings))), store


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
