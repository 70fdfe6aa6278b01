"""The attempts of a store to write that failed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from routing.state.redis import RedisState
from routing.state.sqlite_writer import SqliteWriter


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """The errors of the attempts to write so far."""
    seen: list[BaseException] = []
    for kind, name in ((SqliteWriter, "_recover"), (RedisState, "_log_failure")):
        original = getattr(kind, name)

        def failed(store: object, error: BaseException, original: Callable[..., None] = original) -> None:
            seen.append(error)
            original(store, error)

        monkeypatch.setattr(kind, name, failed)
    return seen
