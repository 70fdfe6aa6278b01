"""What is read of an answer is handed on: its first piece at once, the others in as few pieces as may be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from routing.calling.answer import Answer
from server.answers.relay import Relay
from server.answers.streams import BytesEncoder
from server.edge.admission import InFlight
from server.settings import LimitSettings


@asynccontextmanager
async def opening(*items: bytes) -> AsyncIterator[Answer[bytes]]:
    async def answer() -> AsyncIterator[bytes]:
        for item in items:
            yield item

    yield cast("Answer[bytes]", answer())


async def test_the_first_piece_does_not_wait_for_what_came_with_it() -> None:
    relay = Relay(opening(b"a", b"b", b"c"), BytesEncoder(), in_flight=InFlight(LimitSettings()), capacity=64)
    assert await relay.opened(None) is not None
    assert await relay.take() == (b"a", True)
    assert await relay.take() == (b"bc", False)
