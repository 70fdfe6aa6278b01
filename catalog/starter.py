"""The models that come with Roundhouse: pinned, fetched once, made ready; then no network at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from catalog.catalog import Catalog
from catalog.model import Model
from catalog.store.progress import Progress, silent
from catalog.store.store import Store

TAG = "starter"


def starters(catalog: Catalog, *, optional: bool = False) -> tuple[Model, ...]:
    """The starter models, in the catalogue's order; with ``optional`` also those only pulled by name."""
    return tuple(row for row in catalog.models(tags=(TAG,)) if optional or not row.optional)


def absent(catalog: Catalog, store: Store) -> tuple[Model, ...]:
    """Starter models that are not on disk yet; empty means that nothing would be fetched."""
    return tuple(row for row in starters(catalog) if not store.ready(row))


def ensure(
    catalog: Catalog,
    store: Store,
    progress: Progress = silent,
    *,
    also: Iterable[str] = (),
) -> dict[str, Path]:
    """Make the starter models ready, and those named in ``also``; returns their paths by id.

    What is there is not touched, and where all is there the network is not either. Raises PullError,
    ChecksumMismatch, EngineMissing; models that were finished before stay.
    """
    wanted = {row.id: row for row in starters(catalog)}
    for name in also:
        row = catalog.resolve(name)
        wanted[row.id] = row
    return {model_id: store.pull(row, progress) for model_id, row in wanted.items()}
