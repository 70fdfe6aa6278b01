"""Real workers, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.worker import Worker, worker_of


@pytest.fixture(scope="session")
def minilm() -> Iterator[Worker]:
    with worker_of("all-minilm-l6-v2") as running:
        yield running


@pytest.fixture(scope="session")
def whisper() -> Iterator[Worker]:
    with worker_of("whisper-tiny.en") as running:
        yield running


@pytest.fixture(scope="session")
def hibari() -> Iterator[Worker]:
    with worker_of("hibari") as running:
        yield running
