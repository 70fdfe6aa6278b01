"""The interface of a backend: :class:`Backend`, and one small protocol per capability.

A backend has a method for each thing it can do and no method for what it cannot; ask with
``isinstance(backend, Chat)``. It holds no model and no key: every call is given an :class:`Upstream`.
Requests, answers and chunks are OpenAI's JSON; a provider that speaks another language is translated in its
own file. Each method raises only :mod:`catalog.errors`, and closing the iterator it returned closes the
connection, which cancels the call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from backends.asking import AskedForms
from backends.wire.audio import RealtimeRequest, SpeechRequest, TranscriptionRequest
from backends.wire.chat import ChatRequest
from backends.wire.classify import ClassifyRequest
from backends.wire.common import WireModel
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.images import ImageEditRequest, ImageRequest
from backends.wire.moderation.request import ModerationRequest
from backends.wire.rerank import RerankRequest
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from backends.wire.video.events import VideoItem
from backends.wire.video.request import DiscardRequest, VideoRequest
from catalog.clouds import NO_ACCOUNT, CloudAccount
from catalog.model import Endpoint, Model, Wire
from catalog.moderation.categories import Moderation
from catalog.types import Json


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


class Life:
    """Tells calls in progress that their server is gone, where its connections may stay silent instead.

    A machine that loses its network closes no connection. What watches the machine ends its life; each call in
    progress is then broken at once.
    """

    __slots__ = ("_callbacks", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._callbacks: set[Callable[[], None]] = set()

    def add(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` at the end; at once if that is past."""
        if self.ended:
            callback()
        else:
            self._callbacks.add(callback)

    def discard(self, callback: Callable[[], None]) -> None:
        """Forget a callback."""
        self._callbacks.discard(callback)

    def end(self) -> None:
        """Call every callback, once."""
        self.ended = True
        while self._callbacks:
            self._callbacks.pop()()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The clocks of a call, in seconds. ``idle`` runs between two chunks, ``first_byte`` up to the first.

    A plain answer (:mod:`backends.plain`) is one chunk.
    """

    connect: float = 5.0
    first_byte: float = 120.0
    idle: float = 60.0
    total: float = 900.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """The target of a call: an address, the key for it, and the model's name there.

    ``endpoint`` is the name in logs, metrics and breakers. With ``uds``, connections go to that Unix socket,
    ``base_url`` gives only the path, and each request has a connection of its own. With ``addresses`` (IP), they
    go to one of those, and the host in ``base_url`` is not resolved. ``parameters``, ``max_output_tokens`` and
    ``reasons`` (whether the model does) and ``family`` come from the model's row, ``wire`` from it or its
    endpoint; ``engine`` is that of a local worker, ``prompts`` its row's option, and ``templated`` whether its
    model has a chat template. ``voices`` are the voice maps of the row and its endpoint, ``options`` those of a
    remote row, ``moderation`` the labels of a row that moderates. ``asked`` remembers which forms of a request the
    server refused; the upstreams of a row's keys share it. ``cloud`` is the account of an endpoint that
    authenticates by more than a key. ``life`` ends with a server whose loss its connections may not show.
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
    wire: Wire = "chat"
    reasons: bool = False
    family: str | None = None
    engine: str | None = None
    templated: bool = True
    prompts: Mapping[str, str] = field(default_factory=_nothing)
    voices: Mapping[str, str] = field(default_factory=_nothing)
    options: Mapping[str, Any] = field(default_factory=_nothing)
    moderation: Moderation | None = None
    asked: AskedForms = field(default_factory=AskedForms, repr=False, compare=False)
    cloud: CloudAccount = NO_ACCOUNT
    life: Life | None = field(default=None, repr=False, compare=False)

    @property
    def ours(self) -> bool:
        """Whether it is a worker, of this machine or of the cluster, and no server of somebody else."""
        return self.protocol == "worker"


class Backend(Protocol):
    """The part that every backend has, besides its capabilities."""

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """Names of the parameters of this request that the upstream is not sent; dotted where they are nested.

        Pure, and called once per attempt. Anthropic's and Google's translate the whole conversation for it, so its
        time grows with the conversation. Raises InvalidRequest for a request that cannot be sent.
        """
        ...


@runtime_checkable
class Discover(Protocol):
    """``list_models`` asks a server for its models and gives a catalogue row for each."""

    async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]: ...


@runtime_checkable
class Chat(Protocol):
    """``chat`` yields ``chat.completion.chunk`` objects; the last ones carry finish_reason, then usage.

    The upstream is asked for a stream with usage even for a plain answer, except as in :mod:`backends.plain`.
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
class EmbedContents(Protocol):
    """``embed_contents`` embeds texts and pictures, together or apart, and answers as :class:`Embed`."""

    async def embed_contents(self, upstream: Upstream, request: MixedEmbeddingRequest) -> Json: ...


@runtime_checkable
class Rerank(Protocol):
    """``rerank`` answers ``{"results": [{"index", "relevance_score"}], "usage": {...}}``, scores in [0, 1]."""

    async def rerank(self, upstream: Upstream, request: RerankRequest) -> Json: ...


@runtime_checkable
class Classify(Protocol):
    """``classify`` answers ``{"data": [{"index", "scores"}], "labels", "scoring", "usage": {...}}``.

    A text's ``scores`` are the probabilities of ``labels``: the request's in their order, or the model's own. They
    sum to 1 unless the model judges each label for itself. ``scoring`` is their origin: ``similarity`` of vectors,
    the ``likelihood`` of a label as a chat model's answer, a trained ``classifier``, or ``provider`` where the
    server does not say.
    """

    async def classify(self, upstream: Upstream, request: ClassifyRequest) -> Json: ...


@runtime_checkable
class Moderate(Protocol):
    """``moderate`` answers ``{"id", "results"}`` in OpenAI's shape, one result per content.

    A model that is no moderator of OpenAI's wire adds ``scoring``, as in :class:`Classify`. Raises
    CapabilityMismatch for a picture that it cannot judge.
    """

    async def moderate(self, upstream: Upstream, request: ModerationRequest) -> Json: ...


@runtime_checkable
class Transcribe(Protocol):
    """``transcribe`` yields ``transcript.text.delta`` events and one ``transcript.text.done``.

    Beside ``text`` the last event has the fields of verbose_json: ``language``, ``duration`` (seconds),
    ``segments`` and, when asked for, ``words``. ``request.translate`` asks for English.
    """

    def transcribe(self, upstream: Upstream, request: TranscriptionRequest) -> AsyncIterator[Json]: ...


@runtime_checkable
class Speak(Protocol):
    """``speak`` yields bytes of the requested audio format as they become ready."""

    def speak(self, upstream: Upstream, request: SpeechRequest) -> AsyncIterator[bytes]: ...


@runtime_checkable
class Converse(Protocol):
    """``converse`` opens a realtime session: it yields the server's first event, and gives ``request`` the link.

    Closing the iterator closes the connection.
    """

    def converse(self, upstream: Upstream, request: RealtimeRequest) -> AsyncIterator[Json]: ...


@runtime_checkable
class Draw(Protocol):
    """``draw`` yields OpenAI's image events, ending in one ``image_generation.completed`` per image."""

    def draw(self, upstream: Upstream, request: ImageRequest) -> AsyncIterator[Json]: ...


@runtime_checkable
class Film(Protocol):
    """``film`` yields the events of :mod:`backends.wire.video.events`, and the bytes of an MP4 between them.

    A server that works without a connection is looked at until it has finished; with ``request.accepted`` it is
    not asked again, but looked at from there. Closing the iterator leaves such work as it is. Raises
    CapabilityMismatch for a ``task`` that the model cannot do, and UndecodableMedia for a picture that it cannot
    read.
    """

    def film(self, upstream: Upstream, request: VideoRequest) -> AsyncIterator[VideoItem]: ...


@runtime_checkable
class Discard(Protocol):
    """``discard`` ends a server's work on a video and deletes what it has: ``{"deleted": true}``."""

    async def discard(self, upstream: Upstream, request: DiscardRequest) -> Json: ...


@runtime_checkable
class EditImages(Protocol):
    """``edit`` yields OpenAI's events of edits, ending in one ``image_edit.completed`` per picture.

    ``request.variation`` asks for pictures that vary the one given, without a prompt. Raises UnsupportedParameter
    for a mask, a markup or a number of pictures that the model's server does not take.
    """

    def edit(self, upstream: Upstream, request: ImageEditRequest) -> AsyncIterator[Json]: ...


@runtime_checkable
class Count(Protocol):
    """``count`` gives a chat's exact number of prompt tokens: ``{"input_tokens": 40}``.

    Raises CapabilityMismatch where the model's server cannot tell.
    """

    async def count(self, upstream: Upstream, request: ChatRequest) -> Json: ...


@runtime_checkable
class Template(Protocol):
    """``apply_template`` gives the text that a chat becomes for its model: ``{"prompt": "..."}``.

    ``add_generation_prompt`` among the request's further fields may leave out the beginning of the answer. Raises
    CapabilityMismatch where the model's server does not tell it.
    """

    async def apply_template(self, upstream: Upstream, request: ChatRequest) -> Json: ...


@runtime_checkable
class Describe(Protocol):
    """``properties`` gives what llama-server tells of a model: its template, special tokens, slots and context.

    Raises CapabilityMismatch where the model's server does not tell them.
    """

    async def properties(self, upstream: Upstream) -> Json: ...


@runtime_checkable
class Checks(Protocol):
    """``fault`` is what keeps an endpoint from being called, such as missing credentials; None if nothing does."""

    async def fault(self, upstream: Upstream) -> str | None: ...


@runtime_checkable
class Tokenize(Protocol):
    """``tokenize`` gives a text's token ids, ``detokenize`` their text; the round trip is exact."""

    async def tokenize(self, upstream: Upstream, request: TokenizeRequest) -> Json: ...

    async def detokenize(self, upstream: Upstream, request: DetokenizeRequest) -> Json: ...
