"""Chat answers told in another API's events (Responses, Messages): as a stream, or as their sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from backends.base import Json
from catalog.errors import RoundhouseError
from server.sse import event


class Story(Protocol):
    """A translation of chat chunks into events, each named by its ``type``."""

    def feed(self, chunk: Json) -> Iterator[Json]: ...

    def finish(self) -> Iterator[Json]: ...

    def fail(self, error: RoundhouseError) -> Iterator[Json]: ...


class Narrator:
    """An encoder that sends a story's events; ``opening`` gives those that come before the first chunk."""

    def __init__(self, story: Story, *, opening: Callable[[], Iterator[Json]] | None = None) -> None:
        self._story = story
        self._opening = opening

    def encode(self, item: Json) -> bytes:
        return self._opened() + _events(self._story.feed(item))

    def finish(self) -> bytes:
        return self._opened() + _events(self._story.finish())

    def fail(self, error: RoundhouseError) -> bytes | None:
        return self._opened() + _events(self._story.fail(error))

    def _opened(self) -> bytes:
        opening, self._opening = self._opening, None
        return b"" if opening is None else _events(opening())


class Retelling:
    """An assembler that runs through the same events and answers with what they add up to."""

    def __init__(self, story: Story, *, whole: Callable[[], Json]) -> None:
        self._story = story
        self._whole = whole

    def add(self, item: Json) -> None:
        for _ in self._story.feed(item):
            pass

    def result(self) -> Any:
        for _ in self._story.finish():
            pass
        return self._whole()


def _events(events: Iterable[Json]) -> bytes:
    return b"".join(event(each, each["type"]) for each in events)
