"""Chat answers translated into another API's events (Responses, Messages), streamed or assembled."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ValidationError

from backends.local.parameters import ENGINES, WORKER
from backends.parameters import refuse_names
from backends.streams.native import NativeChunk
from backends.wire.chat import ChatRequest, Original, TranslatedChat
from catalog.errors import InvalidRequest, RoundhouseError, UnsupportedParameter
from catalog.types import Json
from catalog.validation import wording
from routing.reading.intent import check_misplaced
from server.answers.streams import event
from server.edge.json_body import with_whole_numbers

CHAT_EXTRAS = frozenset(
    {
        *("audio", "modalities", "moderation", "prediction", "prompt_cache_key", "prompt_cache_options"),
        *("prompt_cache_retention", "routing", "safety_identifier", "service_tier", "strict", "timings"),
        "verbosity",
    }
)
"""Chat parameters that ``ChatRequest`` does not declare: OpenAI's, from its API reference, and the gateway's."""


_RESTATED = frozenset(
    {
        *("messages", "n", "max_tokens", "max_completion_tokens", "stop", "stream_options", "response_format"),
        *("logprobs", "top_logprobs", "tools", "tool_choice", "functions", "function_call", "reasoning_effort"),
        *("modalities", "audio", "web_search_options"),
    }
)
"""Chat parameters that other APIs have in their own terms, or not at all; by the chat's name they say nothing."""

_SEPARATORS = re.compile(r"__|[./:]+")
"""Between a namespace and the name of a tool, as models write them."""


@cache
def chat_parameters() -> frozenset[str]:
    """The names of all chat parameters: OpenAI's, the local engines' and the gateway's."""
    return frozenset(ChatRequest.model_fields).union(
        CHAT_EXTRAS, WORKER.extras, *(table.extras for table in ENGINES.values())
    )


def split_extras(extras: Mapping[str, Any], foreign: frozenset[str]) -> tuple[Json, tuple[str, ...]]:
    """The unknown fields of a request that go on with its chat, and the names of the others.

    ``foreign`` are fields that only providers of the request's own API take. Raises InvalidRequest for fields that
    no request may have.
    """
    refuse_names(extras)
    check_misplaced(extras)
    modalities = extras.get("modalities")
    if extras.get("audio") or (isinstance(modalities, list) and "audio" in modalities):
        raise UnsupportedParameter(
            "This API answers with text alone; ask for speech with POST /v1/chat/completions.", param="modalities"
        )
    known = chat_parameters() - _RESTATED
    kept = {name: value for name, value in extras.items() if name in foreign or name in known}
    return kept, tuple(name for name, value in extras.items() if name not in kept and value is not None)


def validated(
    body: Json,
    left_out: tuple[str, ...],
    *,
    foreign: frozenset[str] = frozenset(),
    place: Callable[[str], str] = lambda name: name,
    original: Original | None = None,
    makers: Mapping[int, str] | None = None,
) -> TranslatedChat:
    """The chat of a translated body. ``place`` gives the caller's name of a field that is refused.

    Raises InvalidRequest.
    """
    try:
        return TranslatedChat.of(body, left_out, foreign, original, makers)
    except ValidationError as wrong:
        if with_whole_numbers(wrong, body):
            return validated(body, left_out, foreign=foreign, place=place, original=original, makers=makers)
        first = wrong.errors(include_url=False)[0]
        where = place(wording.place(first))
        raise InvalidRequest(f"{where}: {wording.describe(first, value=False)}", param=where) from None


def named(item: Mapping[str, Any], field: str, where: str) -> str:
    """An id or a name in an item of a conversation. Raises InvalidRequest for another value and an empty one."""
    value = item.get(field)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{where}: '{field}' must be a string that is not empty.", param=f"{where}.{field}")
    return value


def meant(called: str, names: Iterable[str]) -> str | None:
    """The name that a model means by another: without a namespace, with another separator, or below "functions".

    None if that is none of them, or more than one.
    """
    said = _SEPARATORS.split(called)
    for parts in (said, said[1:] if said[0] == "functions" else ()):
        found = {name for name in names if parts and _SEPARATORS.split(name)[-len(parts) :] == parts}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


class Losses:
    """The parts of a request that its translation does not hold.

    ``names`` change the answer little and are told to the caller; ``refusal`` is the first thing that cannot be
    left out, so that only a provider of the request's own language may answer.
    """

    __slots__ = ("_names", "refusal")

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self.refusal: tuple[str, str | None] | None = None

    def add(self, *names: str) -> None:
        self._names.update(dict.fromkeys(names))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    def refuse(self, message: str, param: str | None) -> None:
        """Keep this as the refusal, unless there is one."""
        self.refusal = self.refusal or (message, param)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Keep an UnsupportedParameter of the block as the refusal."""
        try:
            yield
        except UnsupportedParameter as error:
            self.refuse(error.message, error.param)


class Translation(Protocol):
    """Translates chat chunks into events, each named by its ``type``."""

    def feed(self, chunk: Json) -> Iterator[Json]: ...

    def finish(self) -> Iterator[Json]: ...

    def fail(self, error: RoundhouseError) -> Iterator[Json]: ...


S = TypeVar("S", bound=Translation)


class TranslatedEncoder:
    """Encodes a translation's events as SSE; ``opening`` returns the events before the first chunk.

    A chunk that carries the provider's own event needs none: the provider opens its answer itself. ``keep`` stores
    the response of the last event, before that is sent.
    """

    def __init__(
        self,
        translation: Translation,
        *,
        opening: Callable[[], Iterator[Json]] | None = None,
        keep: Callable[[Json], Awaitable[None]] | None = None,
    ) -> None:
        self._translation = translation
        self._opening = opening
        self._keep = keep

    def encode(self, item: Json) -> bytes:
        if self._opening is not None and isinstance(item, NativeChunk):
            self._opening = None
        return self._encode_opening() + _events(self._translation.feed(item))

    def finish(self) -> bytes | Awaitable[bytes]:
        if self._keep is not None:
            return self._finish_kept(self._keep)
        return self._encode_opening() + _events(self._translation.finish())

    async def _finish_kept(self, keep: Callable[[Json], Awaitable[None]]) -> bytes:
        opening, events = self._encode_opening(), list(self._translation.finish())
        await keep(events[-1]["response"])
        return opening + _events(events)

    def fail(self, error: RoundhouseError) -> bytes | None:
        return self._encode_opening() + _events(self._translation.fail(error))

    def _encode_opening(self) -> bytes:
        opening, self._opening = self._opening, None
        return b"" if opening is None else _events(opening())


class TranslatedAssembler(Generic[S]):
    """Runs a translation and returns the document that its events describe, from ``whole``."""

    def __init__(self, translation: S, *, whole: Callable[[S], Json]) -> None:
        self._translation = translation
        self._whole = whole

    def add(self, item: Json) -> None:
        for _ in self._translation.feed(item):
            pass

    def result(self) -> Any:
        for _ in self._translation.finish():
            pass
        return self._whole(self._translation)


def _events(events: Iterable[Json]) -> bytes:
    return b"".join(event(each, each["type"]) for each in events)


def picture(image: Json) -> str:
    """A picture as Markdown: for doors whose answers hold none."""
    return f"\n\n![image]({image['image_url']['url']})\n\n"
