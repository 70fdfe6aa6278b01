"""The workers of a gateway: those of this machine, or those of a cluster; and which models they can run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from backends.workers.engines.registry import Engines
from backends.workers.observer import WorkerObserver
from backends.workers.pool import KeepsReplicas, WorkerPool
from backends.workers.supervisor import Supervisor
from catalog.catalog import Catalog
from catalog.errors import ConfigurationError, EngineMissing
from catalog.hardware import detect, device_ids
from catalog.model import Model
from catalog.store.store import Store
from routing.upstreams.availability import Availability
from server.observability.events import WorkerEvents
from server.settings import Settings

if TYPE_CHECKING:
    from backends.workers.cluster.pool import ClusterPool

LOOKS = 2.0
"""Seconds between two looks at the catalogue for models that a cluster is to keep running."""


def own_workers(
    settings: Settings, store: Store, engines: Engines, observer: WorkerObserver
) -> Supervisor | ClusterPool:
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
