"""Makes the parts of models at run time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from backends.workers.engines.registry import Engines
from backends.workers.pool import WorkerPool
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

if TYPE_CHECKING:
    from catalog.curated.choosing import Wanted


class LiveModels(NamedTuple):
    """The models on disk, rows registered over HTTP, pulls in the background, and those that requests cause."""

    library: Library
    registry: Registry
    pulls: Pulls
    on_use: PullOnUse


class Parts(Protocol):
    """The members of :class:`server.runtime.Runtime` that are needed here."""

    pool: WorkerPool
    runner: Runner | None
    storage: Storage

    @property
    def catalog(self) -> Catalog: ...

    def unavailable(self, model: Model, /) -> Block | None: ...


class Updates(Protocol):
    """The methods of :class:`server.catalog_updates.CatalogUpdates` that are needed here."""

    async def look(self) -> None: ...

    async def check(self, registered: Registered) -> Catalog: ...


async def live_models(
    settings: ModelSettings,
    registered: RegisteredRows,
    engines: Engines,
    store: Store,
    parts: Parts,
    updates: Updates,
    *,
    announce: Callable[[], Awaitable[None]],
    wanted: Callable[[], Wanted],
) -> LiveModels:
    """The parts over a store; ``announce`` and ``wanted`` are those of :class:`Library`."""

    def catalog() -> Catalog:
        return parts.catalog

    kind = await asyncio.to_thread(store_kind, store.root)
    library = Library(store, catalog, parts.pool, look=updates.look, announce=announce, wanted=wanted)
    pulls = Pulls(kind, parts.storage, library, lambda: parts.runner, store.root / "locks")
    return LiveModels(
        library,
        Registry(registered, engines, catalog=catalog, check=updates.check, look=updates.look, announce=announce),
        pulls,
        PullOnUse(pulls, library, settings, catalog=catalog, unavailable=parts.unavailable),
    )
