"""Figures of the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.figures import Figures


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    """Where a row leaves what it measured."""
    collected = Figures()
    yield collected
    collected.write()
