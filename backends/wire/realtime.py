"""Realtime connections to a provider that has them. Source: OpenAI's API reference, "Realtime"."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from pydantic import PrivateAttr
from pydantic.json_schema import SkipJsonSchema

from backends.wire.common import ModelName, WireModel
from catalog.types import Json


class RealtimeLink(Protocol):
    """An open connection to a provider. Its methods raise :mod:`catalog.errors`."""

    async def send(self, event: Json) -> None:
        """Send an event of the client. Raises StreamBroken once the provider has closed."""
        ...

    def events(self) -> AsyncIterator[Json]:
        """The provider's events after the first, until it closes. Raises StreamBroken if the connection breaks."""
        ...


class RealtimeRequest(WireModel):
    """A connection for one session. ``transcribes`` asks for a session of transcripts."""

    model: ModelName = "auto"
    transcribes: SkipJsonSchema[bool] = False

    _link: RealtimeLink | None = PrivateAttr(default=None)

    @property
    def link(self) -> RealtimeLink:
        """The connection, once the first event has come."""
        assert self._link is not None, "the connection is not open"
        return self._link

    def opened(self, link: RealtimeLink) -> None:
        """Keep the connection that a backend has opened."""
        self._link = link


class RealtimeTurn(WireModel):
    """One response of an open connection, whose events end with its ``response.done``.

    It is a request of its own for limits, money and traces. ``most`` is the answer's bound in tokens, and
    ``prompt_tokens`` the estimated length of what it answers.
    """

    model: ModelName
    most: SkipJsonSchema[int | None] = None
    prompt_tokens: SkipJsonSchema[int] = 0

    _events: Any = PrivateAttr(default=None)

    def fed_by(self, events: AsyncIterator[Json]) -> RealtimeTurn:
        """This turn, with the iterator of its events."""
        self._events = events
        return self

    @property
    def events(self) -> AsyncIterator[Json]:
        events: AsyncIterator[Json] = self._events
        return events
