"""Jobs without HTTP: one function per capability makes a job from a validated body and its origin.

A handler, a batch runner, a WebSocket session and a test make jobs here, and open them with :func:`open_job`,
which keeps the caller to the models and limits of its key.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from backends.grounding.request import GroundingChat, GroundRequest
from backends.pictures.looking import look_at
from backends.wire.audio import RealtimeRequest, RealtimeTurn, SpeechRequest, TranscriptionRequest
from backends.wire.chat import ChatRequest, TranslatedChat
from backends.wire.classify import ClassifyRequest
from backends.wire.common import WireModel
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.images import ImageEditRequest, ImageRequest
from backends.wire.moderation.request import ModerationRequest
from backends.wire.rerank import PairedRerank, RerankRequest
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from backends.wire.tokens import (
    DetokenizeRequest,
    DetokenizeTexts,
    PropertiesRequest,
    TokenizeRequest,
    TokenizeTexts,
)
from backends.wire.video.events import VideoItem
from backends.wire.video.request import DiscardRequest, VideoRequest
from catalog.catalog import Catalog
from catalog.errors import InvalidRequest, ModelNotFound, NotPermitted
from catalog.model import Capability, Model
from catalog.types import Json
from routing.accounts.reservations import TokenGrant
from routing.accounts.virtual_keys import KeyInfo, VirtualKeys
from routing.calling import operations
from routing.calling.answer import Answer, WatchedAnswer
from routing.calling.bounds import KEY, Bound
from routing.calling.job import Job
from routing.calling.operations import Operation
from routing.calling.watching.judgement import MakeJudge, judge_for
from routing.facts import Facts
from routing.reading import requests as reading
from routing.reading.intent import is_auto
from routing.reading.mixed import read_mixed_embedding
from routing.reading.realtime import read_realtime
from routing.reading.stand_ins import StandIn, embeds_by_choice
from routing.reading.videos import read_discard, read_video
from server.callers import Caller, Origin
from server.functions import check_results, with_tools
from server.runtime import Dispatches, Runtime
from server.storage.provider_objects import refuse_addresses, refuse_in_texts, refuse_objects
from server.storage.voices import voiced

T = TypeVar("T")
Opens = Callable[[Runtime, Job[T], Caller], AbstractAsyncContextManager[Answer[T]]]
"""Opens a job, as :func:`open_job` does."""
KEPT = ("store", "metadata")
"""Parameters of an answer that is stored here: whether the model's server takes them, too, does not matter."""


def chat_job(body: ChatRequest, origin: Origin, *, kept: tuple[str, ...] = ()) -> Job[Json]:
    """Answer a conversation; items are ``chat.completion.chunk`` objects.

    One with functions has tools in their place. ``kept`` are the parameters that are stored here. Like every
    function here it raises InvalidRequest for an unknown routing intent; also for a tool's result without its
    call.
    """
    if not isinstance(body, TranslatedChat):
        check_results(body.messages)
    body = with_tools(body)
    job = _job(reading.read_chat, operations.CHAT, body, origin, judge=judge_for(body), kept=kept)
    if Capability.VISION in job.facts.features:
        return replace(job, operation=operations.CHAT_WITH_PICTURES)
    return job


def ground_job(body: GroundRequest, origin: Origin) -> Job[Json]:
    """Find things in a picture; the one item has their places."""
    job = _job(reading.read_chat, operations.GROUND, GroundingChat.of(body), origin)
    return replace(job, left_out=body.unknown())


def completion_job(body: CompletionRequest, origin: Origin) -> Job[Json]:
    """Continue a prompt; items are ``text_completion`` chunks."""
    return _job(reading.read_completion, operations.COMPLETE, body, origin)


def embedding_job(body: EmbeddingRequest, origin: Origin) -> Job[Json]:
    """Embed texts; the one item is the list of vectors."""
    return _job(reading.read_embedding, operations.EMBED, body, origin)


def mixed_embedding_job(body: MixedEmbeddingRequest, origin: Origin) -> Job[Json]:
    """Embed texts and pictures; the one item is the list of vectors. Raises InvalidRequest."""
    plain = body.plain()
    if plain is not None:
        return embedding_job(plain, origin)
    return _job(read_mixed_embedding, operations.EMBED_CONTENTS, body, origin)


def vectors_job(body: EmbeddingRequest, origin: Origin) -> Job[Json]:
    """Embed texts for an API that gives vectors in forms of its own: ``base64`` is left out, and named."""
    if body.encoding_format != "base64":
        return embedding_job(body, origin)
    plain = body.model_copy(update={"encoding_format": "float"})
    return replace(embedding_job(plain, origin), left_out=("encoding_format",))


def rerank_job(body: RerankRequest, origin: Origin) -> Job[Json]:
    """Score documents against a query; the one item has the scores in the documents' order.

    Raises InvalidRequest for a document without a text.
    """
    for position, document in enumerate(body.documents):
        if isinstance(document, dict) and not (isinstance(document.get("text"), str) and document["text"]):
            raise InvalidRequest(
                "A document is a text, or an object with a 'text' that is not empty.",
                param=f"documents[{position}]",
            )
    return _job(reading.read_rerank, operations.RERANK, body, origin)


def score_job(body: PairedRerank, origin: Origin) -> Job[Json]:
    """Score pairs of a query and a document; the one item has ``scores`` in the pairs' order."""
    job = _job(reading.read_rerank, operations.SCORE, body, origin)
    return replace(job, facts=replace(job.facts, units=float(body.queries)))


def classification_job(body: ClassifyRequest, origin: Origin) -> Job[Json]:
    """Classify texts under labels; the one item has every label's score per text.

    Raises InvalidRequest for an empty text.
    """
    for position, text in enumerate(body.texts()):
        if not text:
            raise InvalidRequest(
                "An input is a text, or an object with a 'text' that is not empty.", param=f"input[{position}]"
            )
    return _job(reading.read_classification, operations.CLASSIFY, body, origin)


def moderation_job(body: ModerationRequest, origin: Origin) -> Job[Json]:
    """Judge content by OpenAI's categories; the one item has a verdict per content."""
    return _job(reading.read_moderation, operations.MODERATE, body, origin)


def transcription_job(body: TranscriptionRequest, origin: Origin) -> Job[Json]:
    """Transcribe or translate audio; items are ``transcript.text`` events."""
    return _job(reading.read_transcription, operations.TRANSCRIBE, body, origin)


def diarization_job(body: TranscriptionRequest, origin: Origin) -> Job[Json]:
    """Tell the speakers of audio apart; items are ``transcript.text`` events without text."""
    job = transcription_job(body, origin)
    return replace(job, facts=replace(job.facts, capability=Capability.DIARIZE, languages=frozenset()))


def speech_job(body: SpeechRequest, origin: Origin) -> Job[bytes]:
    """Speak a text; items are bytes of the audio format that was asked for."""
    return _job(reading.read_speech, operations.SPEAK, body, origin)


def realtime_job(body: RealtimeRequest, origin: Origin) -> Job[Json]:
    """Open a session at a provider; the first item is its ``session.created``, and the job lasts as long as it."""
    return _job(read_realtime, operations.CONVERSE, body, origin)


def realtime_turn_job(body: RealtimeTurn, origin: Origin) -> Job[Json]:
    """Count one response of such a session; items are its events."""
    return _job(read_realtime, operations.TURN, body, origin)


def image_job(body: ImageRequest, origin: Origin) -> Job[Json]:
    """Draw pictures; items are ``image_generation`` events.

    Raises InvalidRequest for options that contradict each other: those of a stream without one, URLs in a stream,
    a transparent background in a format without transparency, a compression of one that is not compressed so.
    """
    _check_image(body)
    return _job(reading.read_image, operations.DRAW, body, origin)


def image_edit_job(body: ImageEditRequest, origin: Origin) -> Job[Json]:
    """Change pictures; items are ``image_edit`` events. The pictures have been checked.

    Raises InvalidRequest as :func:`image_job`, and for an edit without a prompt.
    """
    _check_image(body)
    if not body.prompt and not body.variation:
        raise InvalidRequest("An edit needs a 'prompt' that says what to change.", param="prompt")
    job = _job(reading.read_image, operations.EDIT, body, origin)
    return replace(job, left_out=("prompt",)) if body.variation and body.prompt else job


def _check_image(body: ImageRequest) -> None:
    if body.partial_images and not body.stream:
        raise InvalidRequest("'partial_images' is only for 'stream: true'.", param="partial_images")
    if body.stream and body.response_format == "url":
        raise InvalidRequest("A stream carries pictures as b64_json.", param="response_format")
    if body.seed is not None and body.seed + (body.n or 1) > 2**63:
        raise InvalidRequest("Each picture has the next seed, and the last of them is too large.", param="seed")
    if body.output_compression not in (None, 100) and body.output_format not in ("jpeg", "webp"):
        raise InvalidRequest(
            "'output_compression' is for the output_format jpeg or webp.", param="output_compression"
        )
    if body.background == "transparent" and body.output_format == "jpeg":
        raise InvalidRequest(
            "A JPEG has no transparency: ask for the output_format png or webp.", param="background"
        )


def video_job(body: VideoRequest, origin: Origin, *, provider_key: str | None = None) -> Job[VideoItem]:
    """Make a video; items are events and bytes. ``provider_key`` is that of the work that it goes on from."""
    return replace(_job(read_video, operations.FILM, body, origin), provider_key=provider_key)


def discard_job(body: DiscardRequest, origin: Origin, *, provider_key: str | None = None) -> Job[Json]:
    """End a video at its maker and delete it there."""
    return replace(_job(read_discard, operations.DISCARD, body, origin), provider_key=provider_key)


def count_job(chat: Job[Json], model: str) -> Job[Json]:
    """Count the prompt tokens of a chat's job by the tokenizer of ``model``; the one item has them."""
    job = _undecoded(chat, operations.COUNT)
    return replace(job, facts=replace(job.facts, requested=model))


def tokenize_job(body: TokenizeRequest, origin: Origin) -> Job[Json]:
    """Split a text into token ids; the one item has them."""
    return _job(reading.read_tokens, operations.TOKENIZE, body, origin)


def detokenize_job(body: DetokenizeRequest, origin: Origin) -> Job[Json]:
    """Join token ids to a text; the one item has it."""
    return _job(reading.read_tokens, operations.DETOKENIZE, body, origin)


def texts_tokens_job(body: TokenizeTexts | DetokenizeTexts, origin: Origin) -> Job[Json]:
    """Split texts into tokens, or join tokens to texts, by the embedding model unless another is named.

    The one item has ``texts``.
    """
    operation = operations.TOKENIZE_TEXTS if isinstance(body, TokenizeTexts) else operations.DETOKENIZE_TEXTS
    job = _job(reading.read_tokens, operation, body, origin)
    return replace(job, facts=replace(job.facts, capability=Capability.EMBED)) if is_auto(body.model) else job


def template_job(body: ChatRequest, origin: Origin) -> Job[Json]:
    """Apply the chat template; the one item has the prompt."""
    return _undecoded(chat_job(body, origin), operations.TEMPLATE, kept=_OF_TEMPLATES)


def chat_tokens_job(body: ChatRequest, origin: Origin) -> Job[Json]:
    """Split a chat's prompt into tokens; the one item has objects of ``id`` and ``piece``."""
    return _undecoded(chat_job(body, origin), operations.CHAT_TOKENS, kept=_OF_TEMPLATES)


def properties_job(body: PropertiesRequest, origin: Origin) -> Job[Json]:
    """Describe a model; the one item has llama-server's properties of it."""
    return _job(reading.read_tokens, operations.DESCRIBE, body, origin)


_OF_TEMPLATES = ("add_generation_prompt",)
"""Fields of a chat that mean something only where its template is all that is applied."""


def _undecoded(chat: Job[Json], operation: Operation[Json], *, kept: tuple[str, ...] = ()) -> Job[Json]:
    facts = replace(chat.facts, output_tokens=0, tokens_only=True)
    return replace(chat, facts=facts, operation=operation, judge=None, kept=kept)


JOBS: dict[Capability, tuple[type[WireModel], Callable[[Any, Origin], Job[Any]]]] = {
    Capability.CHAT: (ChatRequest, chat_job),
    Capability.COMPLETION: (CompletionRequest, completion_job),
    Capability.EMBED: (EmbeddingRequest, embedding_job),
    Capability.RERANK: (RerankRequest, rerank_job),
    Capability.CLASSIFY: (ClassifyRequest, classification_job),
    Capability.MODERATE: (ModerationRequest, moderation_job),
    Capability.SPEAK: (SpeechRequest, speech_job),
    Capability.IMAGE: (ImageRequest, image_job),
    Capability.VIDEO: (VideoRequest, video_job),
}
"""The body and the job of each capability that a JSON body asks for."""


def permitted(facts: Facts, caller: Caller, catalog: Catalog) -> Facts:
    """The facts with the models that the caller's key is bound to; the router chooses among those alone.

    Raises NotPermitted if the request names another model.
    """
    if caller.key is None or not caller.key.models:
        return facts
    if not is_auto(facts.requested):
        try:
            replicas = catalog.replicas(facts.requested)
        except ModelNotFound as missing:
            known = (catalog.get(name) for name in missing.nearest)
            nearest = tuple(row.id for row in known if row is not None and caller.allows(row.id, catalog))
            raise ModelNotFound(facts.requested, nearest=nearest) from None
        if not any(caller.allows(row.id, catalog) for row in replicas):
            raise NotPermitted.of_model(replicas[0].id)
    return replace(facts, allowed=caller.models(catalog))


def open_job(runtime: Runtime, job: Job[T], caller: Caller) -> AbstractAsyncContextManager[Answer[T]]:
    """Hand a job to the dispatcher, within the models and limits of the caller's key.

    Raises as :func:`permitted`, and InvalidRequest where a request that is no chat, or the text of a chat, names
    an object of a provider's that the caller may not name (:mod:`server.history.files` reads chats' parts), and as
    :func:`voiced` for the voice of speech.
    Entering raises RateLimited when the key's own limits are used up, and InvalidRequest for a bound of the answer
    above a whole limit.
    """
    assert job.facts.key == caller.id, "a job is opened for the caller that it was made for"
    request = job.request
    shown: list[Json] = []
    if isinstance(request, ChatRequest):
        refuse_in_texts(runtime.storage, caller, request.messages)
        if not _OPENED.isdisjoint(job.facts.features):
            shown = _media_of(request)
    elif request.model_extra:
        refuse_objects(runtime.storage, caller, request.model_extra)
    if isinstance(request, ModerationRequest | MixedEmbeddingRequest):
        shown = _pictures_of(request)
    if shown:
        refuse_addresses(runtime.storage, caller, shown)
    facts = permitted(job.facts, caller, runtime.catalog)
    if isinstance(request, SpeechRequest):
        facts = voiced(runtime, facts, request, caller)
    job = job if facts is job.facts else replace(job, facts=facts)
    opening: AbstractAsyncContextManager[Answer[T]]
    if caller.key is None or runtime.keys is None or not caller.key.limits.rates:
        opening = runtime.dispatcher.open(job)
    else:
        opening = _WithinLimits(runtime.keys, caller.key, job, runtime.dispatcher)
    opening = opening if runtime.samples is None else runtime.samples.watched(job, opening)
    on_use = runtime.on_use
    if on_use is not None and on_use.enabled and (name := on_use.lacking(facts)) is not None:
        opening = on_use.first(name, caller, facts, opening)
    if pictures := [part["image_url"] for part in shown if part.get("image_url") is not None]:
        return _Looking(pictures, _field_of(request), opening)
    return opening


async def look_at_pictures(request: ChatRequest) -> None:
    """Check the pictures of a chat that is not opened. Raises as :func:`look_at`."""
    pictures = [part["image_url"] for part in _media_of(request) if part.get("image_url") is not None]
    await look_at([picture.get("url") for picture in pictures], _field_of(request))


def _field_of(request: WireModel) -> str:
    """The field of the caller's own request that has its pictures."""
    if isinstance(request, GroundingChat):
        return "image"
    own = request.original if isinstance(request, TranslatedChat) else None
    return "messages" if isinstance(request, ChatRequest) and (own is None or own.wire != "responses") else "input"


_OPENED = frozenset({Capability.VISION, Capability.VIDEO_INPUT, Capability.AUDIO_INPUT, Capability.DOCUMENTS})
"""Features of a chat with parts that may be addresses."""


def _media_of(request: ChatRequest) -> list[Json]:
    """The parts of a chat that are no texts."""
    return [
        part.model_dump(exclude_unset=True)
        for message in request.messages
        if isinstance(message.content, list)
        for part in message.content
        if part.type != "text"
    ]


def _pictures_of(request: ModerationRequest | MixedEmbeddingRequest) -> list[Json]:
    """The parts of a request that are pictures, which may be addresses."""
    if isinstance(request, ModerationRequest):
        return request.model_dump()["input"] if request.has_images else []
    parts = (part for parts in request.contents() for part in parts)
    return [part.model_dump(exclude_none=True) for part in parts if part.image_url is not None]


async def count_loading(runtime: Runtime, caller: Caller, model: Model) -> None:
    """Count the loading of a model as one request of the caller's key. Raises RateLimited."""
    if caller.key is None or runtime.keys is None or not caller.key.limits.rates:
        return
    facts = Facts(min(model.capabilities), requested=model.id, key=caller.id, tokens_only=True)
    grant = await runtime.keys.admit(caller.key, facts)
    if grant is not None:
        runtime.keys.settle(grant)


class _Looking(AbstractAsyncContextManager[Answer[T]]):
    """Looks at a request's pictures before its job opens. Entering raises as :func:`look_at`."""

    def __init__(self, pictures: list[Json], param: str, opening: AbstractAsyncContextManager[Answer[T]]) -> None:
        self._urls = [picture.get("url") for picture in pictures]
        self._param = param
        self._opening = opening

    async def __aenter__(self) -> Answer[T]:
        await look_at(self._urls, self._param)
        return await self._opening.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._opening.__aexit__(kind, error, traceback)


class _WithinLimits(AbstractAsyncContextManager[Answer[T]]):
    """Counts a job against its key's limits before it opens, and settles that when it has ended.

    Entering raises RateLimited, and InvalidRequest for a bound above a whole limit.
    """

    def __init__(self, keys: VirtualKeys, key: KeyInfo, job: Job[T], dispatcher: Dispatches) -> None:
        self._keys = keys
        self._key = key
        self._job = job
        self._dispatcher = dispatcher
        self._opening: AbstractAsyncContextManager[Answer[T]] | None = None
        self._grant: TokenGrant | None = None

    async def __aenter__(self) -> Answer[T]:
        self._grant = grant = await self._keys.admit(self._key, self._job.facts, counted=self._job.counted)
        bound = None if grant is None or grant.most is None else Bound(grant.most, KEY)
        self._opening = opening = self._dispatcher.open(
            self._job if bound is None else replace(self._job, bound=bound)
        )
        if grant is None:
            return await opening.__aenter__()
        try:
            answer = await opening.__aenter__()
        except BaseException:
            self._keys.settle(grant)
            raise
        return WatchedAnswer(answer, partial(self._keys.see, grant))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._opening is not None
        try:
            return await self._opening.__aexit__(kind, error, traceback)
        finally:
            if self._grant is not None:
                self._keys.settle(self._grant)


def _job(
    read: Callable[..., Facts],
    operation: Operation[T],
    body: WireModel,
    origin: Origin,
    judge: MakeJudge | None = None,
    kept: tuple[str, ...] = (),
) -> Job[T]:
    facts = read(body, origin.headers, key=origin.caller.id)
    if origin.stand_in is not None:
        facts = _standing_in(facts, origin.stand_in)
    left_out = body.left_out if isinstance(body, TranslatedChat) else ()
    return Job(facts, operation, body, origin.trace, judge, left_out, kept)


def _standing_in(facts: Facts, stand_in: StandIn) -> Facts:
    """The facts of a request whose model stands in for another.

    Raises InvalidRequest for embeddings by a model that the router chooses.
    """
    if facts.requested != stand_in.target:  # another job of the same request
        return facts
    if facts.capability is Capability.EMBED and is_auto(stand_in.target):
        raise InvalidRequest(
            f"{embeds_by_choice(*stand_in)} for it in [routing.stand_ins], or ask for one.", param="model"
        )
    return replace(facts, stands_for=stand_in.asked)
