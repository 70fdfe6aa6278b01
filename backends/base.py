"""What a backend is: one small protocol per capability.

A backend has a method for each thing it can do and no method for what it cannot; ask with
``isinstance(backend, Chat)``. It holds no model and no key: every call is given an :class:`Upstream`.
Requests, answers and chunks are OpenAI's JSON; a provider that speaks another language translates in its
own file. Each method raises only :mod:`catalog.errors`, and closing the iterator it returned closes the
connection, which is how a call is cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.chat import ChatRequest
from backends.wire.classify import ClassifyRequest
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.images import ImageRequest
from backends.wire.rerank import RerankRequest
from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from catalog.types import Json


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. ``idle`` is between two chunks; ``first_byte`` ends with the first chunk of the answer.

    An answer that is asked for plainly (:mod:`backends.plain`) is one chunk.
    """

    connect: float = 5.0
    first_byte: float = 120.0
    idle: float = 60.0
    total: float = 900.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """A place that answers: an address, the key for it, and the model's name there.

    ``endpoint`` is the name that logs, metrics and breakers use. With ``uds``, connections go to that
    Unix socket, ``base_url`` gives only the path, and each request has a connection of its own. With
    ``addresses`` (of IP), they go to one of those, and the name in ``base_url`` is not looked up.
    ``parameters`` and ``max_output_tokens`` are the model's row's, for protocols that must know them;
    ``engine`` is the one that runs in a worker of our own.
    """

    endpoint: str
    protocol: str
    base_url: str
    model: str
    uds: str | None = None
    addresses: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=_nothing, repr=False)
    query: Mapping[str, str] = field(default_factory=_nothing)
    timeouts: Timeouts = Timeouts()
    parameters: frozenset[str] | None = None
    max_output_tokens: int | None = None
    engine: str | None = None


@runtime_checkable
class Chat(Protocol):
    """``chat`` yields ``chat.completion.chunk`` objects, the last ones with finish_reason, then usage.

    It asks the upstream for a stream with usage, whatever the caller asked for; for short plain answers see
    :mod:`backends.plain`.
    """

    def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncIterator[Json]: ...


@runtime_checkable
class Complete(Protocol):
    """``complete`` yields ``text_completion`` chunks in the same way."""

    def complete(self, upstream: Upstream, request: CompletionRequest) -> AsyncIterator[Json]: ...


@runtime_checkable
class Embed(Protocol):
    """``embed`` answers with OpenAI's list object, vectors in the ``encoding_format`` asked for."""

    async def embed(self, upstream: Upstream, request: EmbeddingRequest) -> Json: ...


@runtime_checkable
class Rerank(Protocol):
    """``rerank`` answers ``{"results": [{"index", "relevance_score"}], "usage": {...}}``, scores in [0, 1]."""

    async def rerank(self, upstream: Upstream, request: RerankRequest) -> Json: ...


@runtime_checkable
class Classify(Protocol):
    """``classify`` answers ``{"data": [{"index", "scores"}], "scoring", "usage": {...}}``.

    A text's ``scores`` are the chances of the request's labels, in their order; they sum to 1. ``scoring`` says
    what they come from: ``similarity`` of vectors, the ``likelihood`` of a label as a chat model's answer, or
    ``provider`` where that is not told.
    """

    async def classify(self, upstream: Upstream, request: ClassifyRequest) -> Json: ...


@runtime_checkable
class Transcribe(Protocol):
    """``transcribe`` yields ``transcript.text.delta`` events and one ``transcript.text.done``.

    The last event carries beside ``text`` what verbose_json needs: ``language``, ``duration`` (seconds),
    ``segments`` and, when asked for, ``words``. ``request.translate`` asks for English.
    """

    def transcribe(self, upstream: Upstream, request: TranscriptionRequest) -> AsyncIterator[Json]: ...


@runtime_checkable
class Speak(Protocol):
    """``speak`` yields bytes of the audio format that was asked for, as they are ready."""

    def speak(self, upstream: Upstream, request: SpeechRequest) -> AsyncIterator[bytes]: ...


@runtime_checkable
class Draw(Protocol):
    """``draw`` yields OpenAI's image events, ending in one ``image_generation.completed`` per image."""

    def draw(self, upstream: Upstream, request: ImageRequest) -> AsyncIterator[Json]: ...


@runtime_checkable
class Tokenize(Protocol):
    """Token ids of a text and the text of token ids; the round trip is exact."""

    async def tokenize(self, upstream: Upstream, request: TokenizeRequest) -> Json: ...

    async def detokenize(self, upstream: Upstream, request: DetokenizeRequest) -> Json: ...


Backend = Chat | Complete | Embed | Rerank | Classify | Transcribe | Speak | Draw | Tokenize
