"""Collects the measured figures of a whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.figures import Figures


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    """Collector of the figures that the rows measure."""
    collected = Figures()
    yield collected
    collected.write()
