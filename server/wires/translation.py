"""Chat answers translated into another API's events (Responses, Messages), streamed or assembled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from catalog.errors import RoundhouseError
from catalog.types import Json
from server.answers.streams import event


class Translation(Protocol):
    """Translates chat chunks into events, each named by its ``type``."""

    def feed(self, chunk: Json) -> Iterator[Json]: ...

    def finish(self) -> Iterator[Json]: ...

    def fail(self, error: RoundhouseError) -> Iterator[Json]: ...


class TranslatedEncoder:
    """Encodes a translation's events as SSE; ``opening`` returns the events before the first chunk."""

    def __init__(self, translation: Translation, *, opening: Callable[[], Iterator[Json]] | None = None) -> None:
        self._translation = translation
        self._opening = opening

    def encode(self, item: Json) -> bytes:
        return self._encode_opening() + _events(self._translation.feed(item))

    def finish(self) -> bytes:
        return self._encode_opening() + _events(self._translation.finish())

    def fail(self, error: RoundhouseError) -> bytes | None:
        return self._encode_opening() + _events(self._translation.fail(error))

    def _encode_opening(self) -> bytes:
        opening, self._opening = self._opening, None
        return b"" if opening is None else _events(opening())


class TranslatedAssembler:
    """Runs a translation and returns the document that its events describe, from ``whole``."""

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
