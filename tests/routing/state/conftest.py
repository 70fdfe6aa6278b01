"""A store of each kind, and its attempts to write that failed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from routing.state.protocol import State
from routing.state.redis import RedisState
from routing.state.sqlite import SqliteState
from routing.state.sqlite_writer import SqliteWriter
from tests.routing.state.stores import STORES, Opener, redis_server


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


@pytest.fixture(params=STORES)
async def opener(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    """A function that opens the same store again at each call; all are closed at the end."""
    async with AsyncExitStack() as stack:
        socket = tmp_path / "redis.sock"
        if request.param == "redis":
            await stack.enter_async_context(redis_server(socket))

        async def open_state() -> State:
            store: State = (
                RedisState(f"unix://{socket}") if request.param == "redis" else SqliteState(tmp_path / "s.sqlite")
            )
            await store.start()
            stack.push_async_callback(store.close)
            return store

        yield open_state
