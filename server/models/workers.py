"""The workers of a gateway: those of this machine, or those of a cluster; and which models they can run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from backends.workers.engines.registry import Engines
from backends.workers.observer import WorkerObserver
from backends.workers.pool import KeepsReplicas, WorkerPool
from backends.workers.supervisor import Supervisor
from catalog.catalog import Catalog
from catalog.errors import ConfigurationError, EngineMissing
from catalog.hardware import detect, device_ids
from catalog.model import LOCAL_ENDPOINT, Model
from catalog.store.store import Store
from routing.outcomes import Outcome, OutcomeSink
from routing.upstreams.availability import Availability
from server.observability.events import WorkerEvents
from server.settings import Settings

if TYPE_CHECKING:
    from backends.workers.control.service import WatchedPool

LOOKS = 2.0
"""Seconds between two looks at the catalogue for models that a cluster is to keep running."""


def own_workers(
    settings: Settings, store: Store, engines: Engines, observer: WorkerObserver
) -> AbstractAsyncContextManager[WatchedPool]:
    """The workers of this machine or of the cluster in the settings, not started yet.

    Those of this machine end with the process that owns them. Raises ConfigurationError for a cluster without Ray,
    and for rows that need a cluster where there is none.
    """
    if settings.workers.cluster is not None:
        from backends.workers.cluster.find import check_ray, finder
        from backends.workers.cluster.pool import ClusterPool

        check_ray()
        return ClusterPool(finder(settings.workers), silence=settings.workers.cluster_silence)
    _check_rows(settings.model)
    logs = settings.workers.logs or settings.data_dir / "logs"
    return Supervisor(
        store=store,
        settings=settings.workers.model_copy(update={"logs": logs}),
        devices=detect().devices,
        engines=engines,
        observer=WorkerEvents(observer),
    )


def availability_of(settings: Settings, store: Store, engines: Engines) -> Availability:
    """The check of which models can run. Nodes of a cluster have files and engines of their own."""
    if settings.workers.cluster is None:
        return Availability(store, engines.missing, engines.missing_file, device_ids)
    return Availability(_OfNodes(store), _known_engine(engines))


async def keep_wanted(pool: WorkerPool, catalog: Callable[[], Catalog]) -> None:
    """Tell a cluster's pool which models to keep running, now and after each change of the catalogue."""
    told: Catalog | None = None
    while isinstance(pool, KeepsReplicas):
        current = catalog()
        if current is not told:
            told = current
            pool.want([row for row in current.models(local=True) if row.replicas.min])
        await asyncio.sleep(LOOKS)


class FirstTokens:
    """A sink that tells a cluster's pool how long callers waited for the first token: workers are added by it."""

    def __init__(self, pool: KeepsReplicas) -> None:
        self._pool = pool

    def record(self, outcome: Outcome) -> None:
        """Pass the figure of a local model on."""
        if outcome.first_chunk is not None and outcome.endpoint == LOCAL_ENDPOINT:
            self._pool.first_token(outcome.model, outcome.first_chunk)


def sinks_of(settings: Settings, pool: WorkerPool) -> tuple[OutcomeSink, ...]:
    """The sinks that a cluster's pool needs; none for the workers of this machine."""
    if settings.workers.cluster is None or not isinstance(pool, KeepsReplicas):
        return ()
    return (FirstTokens(pool),)


class _OfNodes:
    """The models that nodes can have: they pull what they lack, and look for files themselves.

    A starter model that is pulled by name only is not pulled because ``auto`` might choose it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def missing(self, model: Model) -> str | None:
        """Return the reason why no node can load a model, or None."""
        return self._store.missing(model) if model.optional else None


def _known_engine(engines: Engines) -> Callable[[str], EngineMissing | None]:
    def missing(name: str) -> EngineMissing | None:
        return None if name in engines else engines.missing(name)

    return missing


def _check_rows(tables: object) -> None:
    for table in tables if isinstance(tables, tuple | list) else ():
        row: Mapping[str, object] = table if isinstance(table, Mapping) else table.model_dump(exclude_unset=True)
        for name in ("replicas", "resources"):
            if row.get(name):
                raise ConfigurationError(
                    f"The model '{row.get('id')}' has '{name}', which is for workers in a cluster. Set "
                    "workers.cluster, or remove it."
                )
