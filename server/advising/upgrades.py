"""The better models that fit here, for the list of a running server; and the command that pulls a missing one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from backends.workers.engines.registry import Engines
from catalog.errors import ModelNotFound
from catalog.model import Model
from server.settings import Settings

if TYPE_CHECKING:
    from catalog.curated.choosing import Wanted


class Upgrades:
    """Maps models of this machine to better ones that fit; worked out anew only when those that are here change.

    The curated catalogue is read at the first call with a model that has a successor, in a thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._of: tuple[Model, ...] = ()
        self._found: Mapping[str, str] = {}

    async def better(self, here: Iterable[Model]) -> Mapping[str, str]:
        """The ids of better models by the ids of those that are here."""
        rows = tuple(row for row in here if row.local and row.successor)
        if rows != self._of:
            self._found = await asyncio.to_thread(self._work_out, rows) if rows else {}
            self._of = rows
        return self._found

    def _work_out(self, rows: tuple[Model, ...]) -> Mapping[str, str]:
        from server.advising.models import upgrades

        return {name: fit.entry.id for name, fit in upgrades(self._settings, rows).items()}


def wanted_here(settings: Settings, engines: Engines) -> Wanted:
    """The bounds of a model that is pulled by name on this machine. It asks drivers: call it in a thread."""
    from catalog.hardware import detect
    from server.advising.models import wanted_of

    return wanted_of(settings, detect(), engines=engines)


async def with_command(error: ModelNotFound) -> ModelNotFound:
    """The error, or one with the command that pulls the model, if the curated catalogue has one of this name."""
    return await asyncio.to_thread(_with_command, error)


def _with_command(error: ModelNotFound) -> ModelNotFound:
    from catalog.curated.collection import curated

    found = curated().find(error.name)
    return error if found is None else ModelNotFound.of_pullable(error.name, found.command)
