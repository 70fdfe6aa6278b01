"""Completes names of models for the shell, which shows no error here: without a catalogue there are none."""

from __future__ import annotations

import asyncio

from catalog.errors import RoundhouseError


def complete_pull(incomplete: str) -> list[str]:
    """The names that ``pull`` takes and that begin with ``incomplete``: also those of models that are not here."""
    from catalog.curated.collection import curated
    from catalog.curated.pulling import tagged_names

    names = {"recommended", "starter", *complete_model(incomplete)}
    for entry in curated():
        names.update((entry.id, *tagged_names(entry), *entry.names))
    return sorted(name for name in names if name.startswith(incomplete) and not name.startswith("auto"))


def complete_model(incomplete: str) -> list[str]:
    """Ids and aliases of the catalogue, names to pull, and the router's names, that begin with ``incomplete``."""
    from catalog.curated.collection import curated
    from catalog.curated.pulling import tagged_names
    from catalog.store.store import Store
    from routing.facts import Mode
    from server.catalog_updates import read_catalog, registered_in
    from server.settings import load_settings

    try:
        settings = load_settings()
        registered = asyncio.run(registered_in(settings))
        catalog = read_catalog(settings, Store(settings.data_dir / "models"), registered=registered)
    except (RoundhouseError, OSError):
        return []
    names = {"auto", *(f"auto:{mode.value}" for mode in Mode if mode is not Mode.AUTO)}
    for row in catalog.models():
        names.update((row.id, *row.aliases))
    for entry in curated():
        names.update((entry.id, *tagged_names(entry)))
    return sorted(name for name in names if name.startswith(incomplete))
