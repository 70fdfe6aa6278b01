"""The starter models: pinned in builtin/local.toml, fetched once, and usable without a network afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from catalog.catalog import Catalog
from catalog.model import Model
from catalog.store.progress import Progress, silent
from catalog.store.store import Store

TAG = "starter"


def starters(catalog: Catalog, *, optional: bool = False) -> tuple[Model, ...]:
    """List the starter models, in the catalogue's order; with ``optional`` also those pulled by name only."""
    return tuple(row for row in catalog.models(tags=(TAG,)) if optional or not row.optional)


def absent(catalog: Catalog, store: Store) -> tuple[Model, ...]:
    """List the starter models that are not on disk yet."""
    return tuple(row for row in starters(catalog) if not store.ready(row))


def ensure(
    catalog: Catalog,
    store: Store,
    progress: Progress = silent,
    *,
    also: Iterable[str] = (),
) -> dict[str, Path]:
    """Pull the starter models, and those named in ``also``, that are not on disk yet; return all paths by id.

    Uses no network when all are on disk. Raises PullError, ChecksumMismatch, EngineMissing; models that were
    finished before the error stay.
    """
    wanted = {row.id: row for row in starters(catalog)}
    for name in also:
        row = catalog.resolve(name)
        wanted[row.id] = row
    return {model_id: store.pull(row, progress) for model_id, row in wanted.items()}
