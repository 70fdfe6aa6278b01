"""Batches are looked for and told about at once in tests."""

from __future__ import annotations

import pytest

from server.batches import journal, work
from server.storage import runner


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LOOK", 0.02)
    monkeypatch.setattr(runner, "REST", 0.02)
    monkeypatch.setattr(journal, "GROUP", 0.0)
    monkeypatch.setattr(work, "TELL", 0.0)
    monkeypatch.setattr(work, "REST", 0.02)
