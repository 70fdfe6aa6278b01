"""The starter models: pinned in builtin/local.toml, fetched once, and usable without a network afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from catalog.catalog import Catalog
from catalog.errors import PullError
from catalog.model import ENDPOINTS, Model
from catalog.store.progress import Progress, PullEvent, Stage, silent
from catalog.store.store import Store
from catalog.store.transfer import ChecksumMismatch

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

    Uses no network when all are on disk. A starter model that cannot be had is skipped, and the event says so, if
    the others do all that it does: a registry that is out of reach must not keep the server from starting. Raises
    PullError, ChecksumMismatch, EngineMissing; models that were finished before the error stay.
    """
    rows = {row.id: row for row in starters(catalog)}
    named = {row.id: row for row in map(catalog.resolve, also)}
    paths: dict[str, Path] = {}
    failed: dict[str, PullError] = {}
    for row in {**rows, **named}.values():
        try:
            paths[row.id] = store.pull(row, progress)
        except ChecksumMismatch:
            raise
        except PullError as error:
            if row.id in named:
                raise
            failed[row.id] = error
    done = {each for model_id in paths for each in catalog.resolve(model_id).capabilities & ENDPOINTS}
    for model_id, failure in failed.items():
        if not rows[model_id].capabilities & ENDPOINTS <= done:
            raise failure
        progress(PullEvent(model_id, Stage.SKIPPED, reason=failure.message))
    return paths
