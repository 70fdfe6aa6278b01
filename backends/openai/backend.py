"""OpenAI, and every server of its wire: requests and answers are not translated, but answers are checked.

Source: OpenAI's API reference (https://platform.openai.com/docs/api-reference).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from secrets import token_hex
from typing import Any, ClassVar, Literal

from backends.adapting.restoring import restored
from backends.adapting.tools import restoration_for
from backends.base import Upstream
from backends.http import HttpClient
from backends.http.errors import ErrorReader, read_error, stream_error
from backends.native import original_for
from backends.openai import pictures
from backends.openai.asked import AskedCall
from backends.openai.bounds import bounded
from backends.openai.documents import (
    classifications,
    embedding_list,
    rerank_results,
    transcript_events,
)
from backends.openai.forms import dropped, of_this_model, rerank_body, speech_body, transcription_form
from backends.openai.mixed import MixedEmbeddings
from backends.openai.models import rows_from_models
from backends.openai.moderation import by_classifier, moderation_list
from backends.openai.parameters import table_at
from backends.openai.realtime import RealtimeCalls
from backends.openai.sources import with_annotations
from backends.openai.videos import OpenAIVideos
from backends.parameters import ParameterTable, body_for
from backends.plain import asks_plainly
from backends.streams.assemble import chat_chunks, completion_chunks
from backends.streams.calls import CallOrder
from backends.streams.shapes import PROGRESS, WrongShape, is_text, regular_choice, regular_event
from backends.translation import TranslatedRequest, reading
from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.chat import ChatRequest
from backends.wire.classify import ClassifyRequest
from backends.wire.common import WireModel
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.images import ImageEditRequest, ImageRequest
from backends.wire.moderation.request import ModerationRequest
from backends.wire.rerank import RerankRequest
from catalog.errors import (
    CapabilityMismatch,
    ContextLengthExceeded,
    RoundhouseError,
    StreamBroken,
    UpstreamProtocolError,
)
from catalog.model import Endpoint, Model
from catalog.types import Json

_VECTOR = 8192 * 25
"""Bytes of a long vector as text."""
_AFTER_DONE = 0.05
"""Seconds in which a stream may end after ``[DONE]``, so that its connection can be used again."""


class OpenAIBackend(RealtimeCalls, OpenAIVideos, MixedEmbeddings):
    """Chat, completions, embeddings, rerank, classification, audio, images, videos, realtime over OpenAI's wire.

    A subclass is a kind of server that differs in one of the attributes or of the first three methods.
    """

    key_header: ClassVar[str] = "authorization"
    default_voice: ClassVar[str | None] = "alloy"
    """The voice of speech when the caller names none; OpenAI demands one."""
    streams_transcripts: ClassVar[bool] = False
    """Whether every transcription is asked for as a stream."""

    def __init__(self, http: HttpClient) -> None:
        self.http = http

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        if upstream.wire == "responses" and isinstance(request, ChatRequest):
            return self._response_body(upstream, request).dropped
        return dropped(request, upstream, self.parameters(upstream))

    def speaks(self, wire: str, upstream: Upstream) -> bool:
        """See :class:`backends.native.Native`."""
        if upstream.wire == "responses" and wire == "compaction":
            from backends.openai.responses.compaction import Compacting

            return Compacting.at(upstream)
        return wire == upstream.wire == "responses"

    def parameters(self, upstream: Upstream) -> ParameterTable:
        """How this upstream treats the parameters of a request."""
        return table_at(upstream.base_url)

    def body(self, request: WireModel, upstream: Upstream) -> Json:
        """The body to send. Raises InvalidRequest for a field that no request may have."""
        return body_for(request, upstream, self.parameters(upstream))

    def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncGenerator[Json]:
        """``chat.completion.chunk`` objects; the last has the usage, if the server sends it."""
        if upstream.wire == "responses":
            chunks = self._respond(upstream, request)
            if original_for(self, request, upstream) is not None:
                return chunks
        else:
            body = self.body(request, upstream)
            plain = asks_plainly(request, upstream)
            chunks = self.stream(upstream, "/chat/completions", body, chat_chunks, "messages", plain=plain)
            chunks = bounded(chunks, request)
        table = self.parameters(upstream)
        if table.sources:
            chunks = with_annotations(chunks)
        restoration = restoration_for(request, table.tools)
        return chunks if restoration is None else restored(chunks, restoration)

    def complete(self, upstream: Upstream, request: CompletionRequest) -> AsyncGenerator[Json]:
        """``text_completion`` chunks."""
        body = self.body(request, upstream)
        plain = asks_plainly(request, upstream)
        return self.stream(upstream, "/completions", body, completion_chunks, "prompt", plain=plain)

    async def embed(
        self, upstream: Upstream, request: EmbeddingRequest, *, over: Literal["float", "base64"] | None = None
    ) -> Json:
        """OpenAI's list in the encoding that the caller asked for; ``over`` is the one to ask the server for."""
        body = self.body(request, upstream)
        if over is not None:
            body["encoding_format"] = over
        room = len(request.items()) * _VECTOR
        document = await self._post(upstream, "/embeddings", body, "input", room=room)
        return embedding_list(document, request, upstream)

    async def rerank(self, upstream: Upstream, request: RerankRequest) -> Json:
        body = rerank_body(request, upstream, self.parameters(upstream))
        document = await self._post(upstream, "/rerank", body, "documents")
        return rerank_results(document, request, upstream)

    async def classify(self, upstream: Upstream, request: ClassifyRequest) -> Json:
        body = self.body(request, upstream)
        body["input"] = request.texts()
        document = await self._post(upstream, "/classify", body, "input")
        return classifications(document, request, upstream)

    async def moderate(self, upstream: Upstream, request: ModerationRequest) -> Json:
        """Asks the server's moderation endpoint, or a classifier whose row has its labels' categories."""
        if upstream.moderation is not None:
            return await by_classifier(self.classify, upstream, request, upstream.moderation)
        document = await self._post(upstream, "/moderations", self.body(request, upstream), "input")
        return moderation_list(document, request, upstream)

    def transcribe(self, upstream: Upstream, request: TranscriptionRequest) -> AsyncGenerator[Json]:
        path = "/audio/translations" if request.translate else "/audio/transcriptions"
        fields, files = transcription_form(
            request, upstream, self.parameters(upstream), streamed=self.streams_transcripts
        )
        last = ("transcript.text.done",)
        return self.typed_events(upstream, path, transcript_events, last, data=fields, files=files)

    async def speak(self, upstream: Upstream, request: SpeechRequest) -> AsyncGenerator[bytes]:
        body = speech_body(request, upstream, self.parameters(upstream), self.default_voice)
        async with self.http.open(
            upstream,
            "POST",
            self.path(upstream, "/audio/speech"),
            json=body,
            key_header=self.key_header,
            errors=speech_error,
        ) as response:
            async for chunk in response.iter_audio():
                yield chunk

    def draw(self, upstream: Upstream, request: ImageRequest) -> AsyncGenerator[Json]:
        return pictures.draw(self, upstream, request)

    def edit(self, upstream: Upstream, request: ImageEditRequest) -> AsyncGenerator[Json]:
        return pictures.edit(self, upstream, request)

    async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]:
        """The rows of ``GET /models``."""
        document = await self.http.get_json(upstream, self.path(upstream, "/models"), key_header=self.key_header)
        return await asyncio.to_thread(rows_from_models, server, checked(document, "", upstream))

    # ---- the Responses API

    def _response_body(self, upstream: Upstream, request: ChatRequest) -> TranslatedRequest:
        from backends.openai.responses.calls import request_for
        from backends.openai.responses.compaction import WIRE, compact_request

        original = original_for(self, request, upstream)
        if original is not None and original.wire == WIRE:
            return compact_request(original, upstream)
        return request_for(request, original, upstream, self.parameters(upstream))

    def _respond(self, upstream: Upstream, request: ChatRequest) -> AsyncGenerator[Json]:
        from backends.openai.responses import compaction
        from backends.openai.responses.calls import PATH, respond

        original, made = original_for(self, request, upstream), self._response_body(upstream, request)
        if original is not None and original.wire == compaction.WIRE:
            path = self.path(upstream, compaction.PATH)
            return compaction.compact(self.http, upstream, made, path=path, key_header=self.key_header)
        return respond(
            self.http,
            upstream,
            request,
            original,
            made,
            path=self.path(upstream, PATH),
            key_header=self.key_header,
        )

    async def count(self, upstream: Upstream, request: ChatRequest) -> Json:
        """See :class:`backends.base.Count`. OpenAI counts for the Responses API alone."""
        if upstream.wire != "responses":
            raise CapabilityMismatch(f"'{upstream.model}' cannot count tokens over its wire.", param="model")
        from backends.openai.responses.calls import COUNT_PATH, count

        made = self._response_body(upstream, request)
        return await count(
            self.http, upstream, made, path=self.path(upstream, COUNT_PATH), key_header=self.key_header
        )

    # ---- shared

    async def stream(
        self,
        upstream: Upstream,
        path: str,
        body: Json,
        take_apart: Callable[[Json], Iterator[Json]],
        prompt: str,
        *,
        errors: ErrorReader = read_error,
        plain: bool = False,
    ) -> AsyncGenerator[Json]:
        """The chunks of a call, checked: each choice ends once, the usage comes last and alone.

        ``take_apart`` turns a plain answer into chunks: one that was asked for (``plain``), or one of a server
        that does not stream. A server that refuses the form of the request is asked in another
        (:mod:`backends.openai.asked`). ``prompt`` is the field named in the error of a prompt that does not fit.
        Raises StreamBroken when a choice has no finish_reason.
        """
        watch = StreamWatch(upstream, chat=take_apart is chat_chunks)
        call = AskedCall(
            self.http,
            upstream,
            self.path(upstream, path),
            body,
            plain=plain,
            key_header=self.key_header,
            errors=blaming(prompt, errors),
        )
        async with call as response:
            kind = response.media_type
            if kind == "application/json" or (call.plain and kind != "text/event-stream"):
                document = checked(await response.json(), "", upstream)
                with reading(f"The endpoint '{upstream.endpoint}'"):
                    chunks = list(take_apart(document))
                for chunk in chunks:
                    if watch.see(chunk):
                        yield chunk
            else:
                batches = response.event_batches()
                async for events in batches:
                    for sent in events:
                        if sent.done:
                            break
                        document = sent.json()
                        if document is None:  # llama-server begins the stream of a list of prompts with null
                            continue
                        chunk = checked(document, sent.event, upstream)
                        if watch.see(chunk):
                            yield chunk
                        elif PROGRESS in chunk:
                            response.prefilling()
                    else:
                        continue
                    await response.drain(_AFTER_DONE)
                    await batches.aclose()  # else the garbage collector closes it, in a task of its own
                    break
        if (usage := watch.end()) is not None:
            yield usage

    async def typed_events(
        self,
        upstream: Upstream,
        path: str,
        take_apart: Callable[[Any, Upstream], Iterator[Json]],
        last: tuple[str, ...],
        *,
        room: int = 0,
        **sent: Any,
    ) -> AsyncGenerator[Json]:
        """The events of an answer whose events have types, checked; ``sent`` is the body for ``HttpClient.open``.

        ``take_apart`` turns a plain answer into events. Raises StreamBroken when none has a type of ``last``.
        """
        async with self.http.open(
            upstream, "POST", self.path(upstream, path), key_header=self.key_header, **sent
        ) as response:
            if response.media_type != "text/event-stream":
                document = checked(await response.json(room=room), "", upstream)
                with reading(f"The endpoint '{upstream.endpoint}'"):
                    events = list(take_apart(document, upstream))
                for event in events:
                    regular(event, upstream)
                    yield event
                return
            finished = False
            async for told in response.events():
                if told.done:
                    break
                event = checked(told.json(), told.event, upstream)
                regular(event, upstream)
                finished = finished or event.get("type") in last
                yield event
            if not finished:
                raise StreamBroken(f"The endpoint '{upstream.endpoint}' ended its answer before it was complete.")

    async def _post(self, upstream: Upstream, path: str, body: Json, prompt: str, *, room: int = 0) -> Json:
        document = await self.http.post_json(
            upstream,
            self.path(upstream, path),
            body,
            room=room,
            key_header=self.key_header,
            errors=blaming(prompt),
        )
        return checked(document, "", upstream)


class StreamWatch:
    """Checks the chunks of one answer: which choices have ended, and the usage."""

    __slots__ = (
        "_calls", "_chat", "_created", "_ended", "_head", "_id", "_object", "_open", "_pending",
        "_upstream", "_usage",
    )  # fmt: skip

    def __init__(self, upstream: Upstream, *, chat: bool) -> None:
        """``chat``: the chunks are of a chat, not of a text completion."""
        self._upstream = upstream
        self._chat = chat
        self._calls: dict[int, CallOrder] = {}
        self._object = "chat.completion.chunk" if chat else "text_completion"
        self._id = ""
        self._created = 0
        self._open: set[int] = set()
        self._ended: set[int] = set()
        self._usage: Json | None = None
        self._head: Json = {}
        self._pending: Json = {}

    def see(self, chunk: Json) -> bool:
        """Note a chunk and make it regular; False if it holds nothing to pass on now.

        Raises UpstreamProtocolError for a chunk whose parts have other types than OpenAI's. Usage is checked by
        the reader of the answer: wrong figures do not spoil a good answer.
        """
        usage = chunk.pop("usage", None)
        if type(usage) is dict:
            self._usage = usage
        choices = chunk.get("choices")
        if not choices:
            self._pending |= {name: chunk[name] for name in _HEADED & chunk.keys()}
            return False
        chunk_id, created = chunk.get("id"), chunk.get("created")
        if (
            type(chunk_id) is not str
            or type(created) is not int
            or not (chunk_id and created)
            or ("service_tier" in chunk and type(chunk["service_tier"]) not in _TEXT)
            or ("system_fingerprint" in chunk and type(chunk["system_fingerprint"]) not in _TEXT)
        ):
            self._regular_head(chunk)
        chunk["object"] = self._object
        if not self._head:
            if PROGRESS in chunk and self._upstream.ours:
                return False
            self._head = {name: value for name, value in chunk.items() if name not in _OF_THE_FIRST}
            chunk.update(self._pending)
        if type(choices) is not list:
            raise _wrong(self._upstream, WrongShape("choices", choices, "a list"))
        for choice in choices:
            if self._chat and is_text(choice) and choice["index"] in self._open:
                continue  # nearly all are of this form: another part of the text of a choice that has begun
            self._see_choice(choice)
        return True

    def _see_choice(self, choice: Any) -> None:
        """Make a choice regular and note whether it has ended. Raises UpstreamProtocolError."""
        try:
            index = regular_choice(choice, chat=self._chat)
            if self._chat and (choice["delta"].get("tool_calls") or index in self._calls):
                self._order(index, choice)
        except WrongShape as wrong:
            raise _wrong(self._upstream, wrong) from None
        if index in self._ended:
            choice["finish_reason"] = None
        elif choice.get("finish_reason"):
            if choice["finish_reason"] == "stop" and index in self._calls:
                choice["finish_reason"] = "tool_calls"  # agents run the calls of no other answer
            self._ended.add(index)
            self._open.discard(index)
        else:
            choice["finish_reason"] = None
            self._open.add(index)

    def _regular_head(self, chunk: Json) -> None:
        """Give the chunk the fields that clients demand where the server has none, or an empty or a wrong one."""
        if not self._id:
            self._id = self._head.get("id") or ("chatcmpl-" if self._chat else "cmpl-") + token_hex(12)
            self._created = self._head.get("created") or int(time.time())
        if type(chunk.get("id")) is not str or not chunk["id"]:
            chunk["id"] = self._id
        if type(chunk.get("created")) is not int or not chunk["created"]:
            chunk["created"] = self._created
        if chunk.get("model") == "":  # Azure's chunks about its filters have empty heads
            chunk["model"] = self._head.get("model") or self._upstream.model
        for name in ("service_tier", "system_fingerprint"):
            if type(chunk.get(name)) not in _TEXT:
                del chunk[name]

    def _order(self, index: int, choice: Json) -> None:
        """Give each call of a choice a position and an id of its own, and let one follow another."""
        delta, ended = choice["delta"], bool(choice.get("finish_reason")) or index in self._ended
        if (order := self._calls.get(index)) is None:
            order = self._calls[index] = CallOrder()
        if calls := order.take(delta.get("tool_calls") or [], ended=ended):
            delta["tool_calls"] = calls
        else:
            delta.pop("tool_calls", None)

    def end(self) -> Json | None:
        """The usage chunk, if there is usage. Raises StreamBroken unless every choice has ended."""
        if self._open or not self._ended:
            raise StreamBroken(
                f"The endpoint '{self._upstream.endpoint}' ended its stream before the answer was finished."
            )
        if self._usage is None:
            return None
        return {**self._head, "choices": [], "usage": self._usage}


_TEXT = (str, type(None))
_HEADED = frozenset({"prompt_filter_results"})
"""Fields of Azure's chunk without choices, before the answer; they go with the first chunk of the answer."""
_OF_THE_FIRST = _HEADED | {"choices"}


def checked(document: Any, event: str, upstream: Upstream) -> Json:
    """``document``, if it is an object and not an error.

    Raises the typed error of an error object, and UpstreamProtocolError for anything but an object.
    """
    if not isinstance(document, dict):
        raise UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' sent something other than a JSON object.")
    if event == "error" or document.get("error") or document.get("object") == "error":
        raise stream_error(document, upstream)
    return document


def regular(event: Json, upstream: Upstream) -> None:
    """Check an event with a type. Raises UpstreamProtocolError, and the error that the event tells of."""
    if event.get("type") == "error":
        raise stream_error(event, upstream)
    try:
        regular_event(event)
    except WrongShape as wrong:
        raise _wrong(upstream, wrong) from None


def _wrong(upstream: Upstream, wrong: WrongShape) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' sent an answer of a wrong shape: {wrong}.")


def speech_error(status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream) -> RoundhouseError:
    return of_this_model(read_error(status, headers, body, upstream))


def blaming(prompt: str, errors: ErrorReader = read_error) -> ErrorReader:
    """An error reader that names the field ``prompt`` in the error of a prompt that does not fit."""

    def read(status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream) -> RoundhouseError:
        error = errors(status, headers, body, upstream)
        if isinstance(error, ContextLengthExceeded):
            error.param = prompt
        return error

    return read
