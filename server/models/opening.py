"""Makes the parts of models at run time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

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


async def live_models(
    settings: ModelSettings,
    registered: RegisteredRows,
    engines: Engines,
    store: Store,
    storage: Storage,
    library: Library,
    *,
    catalog: Callable[[], Catalog],
    check: Callable[[Registered], Awaitable[Catalog]],
    announce: Callable[[], Awaitable[None]],
    unavailable: Callable[[Model], Block | None],
    runner: Callable[[], Runner | None],
) -> LiveModels:
    """The parts over a store; see the arguments of each."""
    kind = await asyncio.to_thread(store_kind, store.root)
    pulls = Pulls(kind, storage, library, runner)
    look = library.look
    return LiveModels(
        Registry(registered, engines, catalog=catalog, check=check, look=look, announce=announce),
        pulls,
        PullOnUse(pulls, settings, catalog=catalog, unavailable=unavailable, look=look),
    )
