"""Chat answers told in another API's events (Responses, Messages): as a stream, or as their sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from catalog.errors import RoundhouseError
from catalog.types import Json
from server.answers.streams import event


class Translation(Protocol):
    """A translation of chat chunks into events, each named by its ``type``."""

    def feed(self, chunk: Json) -> Iterator[Json]: ...

    def finish(self) -> Iterator[Json]: ...

    def fail(self, error: RoundhouseError) -> Iterator[Json]: ...


class TranslatedEncoder:
    """An encoder that sends a translation's events; ``opening`` gives those that come before the first chunk."""

    def __init__(self, translation: Translation, *, opening: Callable[[], Iterator[Json]] | None = None) -> None:
        self._translation = translation
        self._opening = opening

    def encode(self, item: Json) -> bytes:
        return self._opened() + _events(self._translation.feed(item))

    def finish(self) -> bytes:
        return self._opened() + _events(self._translation.finish())

    def fail(self, error: RoundhouseError) -> bytes | None:
        return self._opened() + _events(self._translation.fail(error))

    def _opened(self) -> bytes:
        opening, self._opening = self._opening, None
        return b"" if opening is None else _events(opening())


class TranslatedAssembler:
    """An assembler that runs through the same events and answers with what they add up to."""

    def __init__(self, translation: Translation, *, whole: Callable[[], Json]) -> None:
        self._translation = translation
        self._whole = whole

    def add(self, item: Json) -> None:
        for _ in self._translation.feed(item):
            pass

    def result(self) -> Any:
        for _ in self._translation.finish():
            pass
        return self._whole()


def _events(events: Iterable[Json]) -> bytes:
    return b"".join(event(each, each["type"]) for each in events)
