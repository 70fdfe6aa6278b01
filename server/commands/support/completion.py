"""Completes names of models for the shell, which shows no error here: without a catalogue there are none."""

from __future__ import annotations

from catalog.errors import RoundhouseError


def complete_model(incomplete: str) -> list[str]:
    """The ids and aliases of the catalogue, and the router's names, that begin with ``incomplete``."""
    from routing.facts import Mode
    from server.commands.models import catalog_and_store
    from server.settings import load_settings

    try:
        catalog, _ = catalog_and_store(load_settings())
    except (RoundhouseError, OSError):
        return []
    names = {"auto", *(f"auto:{mode.value}" for mode in Mode if mode is not Mode.AUTO)}
    for row in catalog.models():
        names.update((row.id, *row.aliases))
    return sorted(name for name in names if name.startswith(incomplete))
