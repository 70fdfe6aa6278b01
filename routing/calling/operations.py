"""Operations: the methods of backends that a job can ask for, one constant per method.

An operation also creates the observer of its answers, so that a new capability is one constant here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from backends.base import (
    Chat,
    Classify,
    Complete,
    Count,
    Draw,
    Embed,
    Moderate,
    Rerank,
    Speak,
    Tokenize,
    Transcribe,
    Upstream,
)
from catalog.types import Json
from routing.calling.observers import (
    AnswerObserver,
    AudioObserver,
    ChunkObserver,
    ImageObserver,
    ObjectObserver,
    TranscriptObserver,
)
from routing.calling.usage import most_prompt_tokens
from routing.facts import Facts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One method of a backend.

    ``protocol`` is the capability protocol of :mod:`backends.base` that the backend must have. ``call`` takes the
    backend, the upstream and the request, and yields the items of the answer. ``observer`` creates the observer
    of one attempt from the request's facts and the model's id.
    """

    protocol: type
    call: Callable[[Any, Upstream, Any], AsyncIterator[T]]
    observer: Callable[[Facts, str], AnswerObserver]


async def once(answer: Awaitable[T]) -> AsyncIterator[T]:
    """Yield the one object of an answer that does not come in pieces."""
    yield await answer


def _chunks(facts: Facts, model: str) -> AnswerObserver:
    return ChunkObserver(model, most_prompt_tokens(facts))


def _object(facts: Facts, model: str) -> AnswerObserver:
    return ObjectObserver(model, most_prompt=most_prompt_tokens(facts))


CHAT: Operation[Json] = Operation(Chat, lambda backend, upstream, body: backend.chat(upstream, body), _chunks)
COMPLETE: Operation[Json] = Operation(
    Complete, lambda backend, upstream, body: backend.complete(upstream, body), _chunks
)
EMBED: Operation[Json] = Operation(
    Embed, lambda backend, upstream, body: once(backend.embed(upstream, body)), _object
)
RERANK: Operation[Json] = Operation(
    Rerank,
    lambda backend, upstream, body: once(backend.rerank(upstream, body)),
    lambda facts, model: ObjectObserver(model, units=1.0, most_prompt=most_prompt_tokens(facts)),
)
CLASSIFY: Operation[Json] = Operation(
    Classify, lambda backend, upstream, body: once(backend.classify(upstream, body)), _object
)
MODERATE: Operation[Json] = Operation(
    Moderate, lambda backend, upstream, body: once(backend.moderate(upstream, body)), _object
)
TRANSCRIBE: Operation[Json] = Operation(
    Transcribe,
    lambda backend, upstream, body: backend.transcribe(upstream, body),
    lambda _facts, _model: TranscriptObserver(),
)
SPEAK: Operation[bytes] = Operation(
    Speak,
    lambda backend, upstream, body: backend.speak(upstream, body),
    lambda facts, _model: AudioObserver(facts.units),
)
DRAW: Operation[Json] = Operation(
    Draw, lambda backend, upstream, body: backend.draw(upstream, body), lambda _facts, _model: ImageObserver()
)
COUNT: Operation[Json] = Operation(
    Count, lambda backend, upstream, body: once(backend.count(upstream, body)), _object
)
TOKENIZE: Operation[Json] = Operation(
    Tokenize, lambda backend, upstream, body: once(backend.tokenize(upstream, body)), _object
)
DETOKENIZE: Operation[Json] = Operation(
    Tokenize, lambda backend, upstream, body: once(backend.detokenize(upstream, body)), _object
)
