"""The context window of a model on this machine is one number: listed, routed by, and held by its worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.workers.engines.registry import builtin_engines
from backends.workers.supervisor import Supervisor
from catalog.hardware import Device
from catalog.model import Model
from catalog.store.store import Store
from catalog.types import Json
from server.catalog_updates import read_catalog
from server.settings import Settings

GGUF: Json = {"id": "mine", "engine": "llamacpp", "capabilities": ["chat"]}


class Pulled(Store):
    """A store whose one model was trained for many tokens, as the header of its file says."""

    def rows(self) -> tuple[Model, ...]:
        source = {"kind": "hub", "repository": "a/mine"}
        limits = {"context_window": 131_072, "max_output_tokens": 65_536}
        row = {**GGUF, "source": source, "limits": limits, "origin": "pulled"}
        return (Model.model_validate(row),)


def row_of(store: Store, tmp_path: Path, *tables: Json) -> tuple[Model, int | None]:
    """The row in force, and the window of its worker."""
    settings = Settings.model_validate({"data_dir": tmp_path, "model": tables, "workers": {"context": 4096}})
    engines = builtin_engines()
    row = read_catalog(settings, store, engines).get("mine")
    assert row is not None
    pool = Supervisor(
        store=store, settings=settings.workers, devices=[Device("cpu", "cpu", "CPU", 2**34)], engines=engines
    )
    return row, pool.context(row)


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({"limits": {"context_window": 32_768}}, 32_768),
        ({"limits": {"context_window": 32_768}, "options": {"context": 16_384}}, 16_384),
        ({"limits": {"context_window": 1024}}, 1024),
        ({"options": {"context": 16_384}}, 16_384),
        ({}, 4096),
    ],
)
def test_a_row_that_names_its_window_has_it_whatever_the_default_is(
    tmp_path: Path, fields: Json, window: int
) -> None:
    own = {**GGUF, "source": {"kind": "path", "path": str(tmp_path / "m.gguf")}, **fields}
    row, held = row_of(Store(tmp_path / "models"), tmp_path, own)
    assert (row.limits.context_window, held) == (window, window)


@pytest.mark.parametrize(
    ("table", "window"),
    [
        (None, 4096),
        ({"aliases": ["m"]}, 4096),
        ({"limits": {"max_output_tokens": 99}}, 4096),
        ({"limits": {"context_window": 65_536}}, 65_536),
    ],
)
def test_the_window_that_a_model_was_trained_for_is_no_wish_of_the_operator(
    tmp_path: Path, table: Json | None, window: int
) -> None:
    tables = [] if table is None else [{"id": "mine", **table}]
    row, held = row_of(Pulled(tmp_path / "models"), tmp_path, *tables)
    assert (row.limits.context_window, held) == (window, window)
    assert (row.limits.max_output_tokens or 0) <= window
