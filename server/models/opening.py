"""Makes the parts of models at run time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from backends.workers.engines.registry import Engines
from catalog.catalog import Catalog
from catalog.model import Model
from catalog.store.settings import ModelSettings
from catalog.store.store import Store
from routing.plan import Block
from server.library import Library
from server.models.on_use import PullOnUse
from server.models.pulls import Pulls, store_kind
from server.models.registry import Registry
from server.models.rows import Registered, RegisteredRows
from server.storage.runner import Runner
from server.storage.storage import Storage


class LiveModels(NamedTuple):
    """Rows registered over HTTP, pulls in the background, and those that requests cause."""

    registry: Registry
    pulls: Pulls
    on_use: PullOnUse


class Parts(Protocol):
    """The members of :class:`server.runtime.Runtime` that are needed here."""

    library: Library | None
    runner: Runner | None
    storage: Storage
    unavailable: Callable[[Model], Block | None]

    @property
    def catalog(self) -> Catalog: ...


async def live_models(
    settings: ModelSettings,
    registered: RegisteredRows,
    engines: Engines,
    store: Store,
    parts: Parts,
    *,
    check: Callable[[Registered], Awaitable[Catalog]],
    announce: Callable[[], Awaitable[None]],
) -> LiveModels:
    """The parts over a store; ``check`` and ``announce`` are those of :class:`Registry`."""
    library = parts.library
    assert library is not None, "the process that has these parts has the models"
    kind = await asyncio.to_thread(store_kind, store.root)
    pulls = Pulls(kind, parts.storage, library, lambda: parts.runner)

    def catalog() -> Catalog:
        return parts.catalog

    return LiveModels(
        Registry(registered, engines, catalog=catalog, check=check, look=library.look, announce=announce),
        pulls,
        PullOnUse(pulls, library, settings, catalog=catalog, unavailable=parts.unavailable),
    )
