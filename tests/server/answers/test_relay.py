"""The relay delivers the first piece of an answer at once and joins later ones."""

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


async def test_the_first_piece_is_delivered_alone_and_later_pieces_are_joined() -> None:
    relay = Relay(opening(b"a", b"b", b"c"), BytesEncoder(), in_flight=InFlight(LimitSettings()), capacity=64)
    assert await relay.opened(None) is not None
    assert await relay.take() == (b"a", True)
    assert await relay.take() == (b"bc", False)
