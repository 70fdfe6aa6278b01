"""One server shared by all end-to-end tests that leave it intact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from catalog.store.store import Store
from server.settings import load_settings
from tests.e2e.serving import Served, served


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the starter models, on a free port."""
    with served(tmp_path_factory.mktemp("server"), "--starter") as running:
        yield running


@pytest.fixture(scope="session")
def gguf(server: Served) -> Path:
    """The starter chat model's file."""
    del server
    settings = load_settings()
    catalog = Catalog.load()
    return Store(settings.data_dir / "models").path(catalog.resolve("smollm2-135m-instruct"))
