"""A job: one request to be answered by some model, with no HTTP in it.

A handler, a batch runner, a WebSocket session and a test make the same job in the same way; the dispatcher
carries it out. An :class:`Operation` is the method of a backend that a job asks for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from backends.base import Chat, Classify, Complete, Draw, Embed, Rerank, Speak, Tokenize, Transcribe, Upstream
from catalog.types import Json
from routing.calling.judgement import MakeJudge
from routing.facts import Facts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One method of a backend.

    ``protocol`` is the capability protocol of :mod:`backends.base` that the backend must have. ``call`` takes the
    backend, the upstream and the request, and yields the items of the answer.
    """

    protocol: type
    call: Callable[[Any, Upstream, Any], AsyncIterator[T]]


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """One request: the facts that the router decides by, and what a backend is asked.

    ``request`` is the validated body. ``trace`` is the id under which attempts are recorded. ``judge`` creates
    one validator per attempt; its verdict goes into the outcome, and with ``escalate`` in the caller's intent an
    invalid answer is held back and the next candidate is asked.
    """

    facts: Facts
    operation: Operation[T]
    request: Any
    trace: str
    judge: MakeJudge | None = None


async def once(answer: Awaitable[T]) -> AsyncIterator[T]:
    """Yield the one object of an answer that does not come in pieces."""
    yield await answer


CHAT: Operation[Json] = Operation(Chat, lambda backend, upstream, body: backend.chat(upstream, body))
COMPLETE: Operation[Json] = Operation(Complete, lambda backend, upstream, body: backend.complete(upstream, body))
EMBED: Operation[Json] = Operation(Embed, lambda backend, upstream, body: once(backend.embed(upstream, body)))
RERANK: Operation[Json] = Operation(Rerank, lambda backend, upstream, body: once(backend.rerank(upstream, body)))
CLASSIFY: Operation[Json] = Operation(
    Classify, lambda backend, upstream, body: once(backend.classify(upstream, body))
)
TRANSCRIBE: Operation[Json] = Operation(
    Transcribe, lambda backend, upstream, body: backend.transcribe(upstream, body)
)
SPEAK: Operation[bytes] = Operation(Speak, lambda backend, upstream, body: backend.speak(upstream, body))
DRAW: Operation[Json] = Operation(Draw, lambda backend, upstream, body: backend.draw(upstream, body))
TOKENIZE: Operation[Json] = Operation(
    Tokenize, lambda backend, upstream, body: once(backend.tokenize(upstream, body))
)
DETOKENIZE: Operation[Json] = Operation(
    Tokenize, lambda backend, upstream, body: once(backend.detokenize(upstream, body))
)
