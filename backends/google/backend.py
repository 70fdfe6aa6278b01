"""Calls to Google's Gemini API: one streamed request per chat, batches of embeddings."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import ClassVar
from urllib.parse import quote

from backends.adapting.restoring import restorer_of
from backends.base import Upstream
from backends.google import discovery, embeddings, pictures
from backends.google.errors import read_google_error
from backends.google.modalities import wants_wav
from backends.google.request import translate
from backends.google.stream import GeminiStream
from backends.google.videos import GoogleVideos, check_video, unsent
from backends.http import HttpClient
from backends.translation import reading
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.images import ImageEditRequest, ImageRequest
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from backends.wire.video.events import VideoItem
from backends.wire.video.request import DiscardRequest, VideoRequest
from catalog.errors import RoundhouseError, UpstreamError
from catalog.model import Endpoint, Model
from catalog.types import Json


class GoogleBackend:
    """Chat, counting its tokens, embeddings, pictures and videos. ``base_url`` includes the version:
    ``https://generativelanguage.googleapis.com/v1beta``.

    ``now`` returns Unix seconds. A subclass is a place that serves the same models at other paths.
    """

    key_header: ClassVar[str] = "x-goog-api-key"

    def __init__(self, client: HttpClient, *, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._now = now

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        if isinstance(request, ChatRequest):
            return translate(request, upstream).dropped
        if isinstance(request, EmbeddingRequest | MixedEmbeddingRequest):
            return embeddings.translate(request, upstream)[1]
        if isinstance(request, VideoRequest):
            check_video(request, upstream)
            return unsent(request, upstream)
        if isinstance(request, ImageRequest):
            return pictures.translate(request, upstream)[1]
        return ()

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncIterator[Json]:
        """The chunks of the answer; see :class:`backends.base.Chat`."""
        translated = translate(request, upstream)
        body, restorer = translated.body, restorer_of(translated.restoration)
        config = body.get("generationConfig", {})
        answer = GeminiStream(
            upstream,
            created=int(self._now()),
            wav=wants_wav(request),
            bound=config.get("maxOutputTokens"),
            resumes=config.get("candidateCount", 1) == 1,
        )
        while True:
            async with self._client.open(
                upstream,
                "POST",
                self.path(upstream, "streamGenerateContent"),
                json=body,
                query={"alt": "sse"},
                key_header=self.key_header,
                errors=self.read_error,
            ) as response:
                answer.service_tier = response.headers.get("x-gemini-service-tier")
                try:
                    async for event in response.events():
                        for chunk in answer.feed(event.json()):
                            yield chunk if restorer is None else restorer.restore(chunk)
                except UpstreamError:
                    if not answer.finished and not answer.paused:  # an error after the end changes no answer
                        raise
            if not answer.paused:
                break
            body = answer.resume(body)
        for chunk in answer.finish():
            yield chunk if restorer is None else restorer.restore(chunk)

    async def count(self, upstream: Upstream, request: ChatRequest) -> Json:
        """The prompt tokens by Google's own count; see :class:`backends.base.Count`."""
        body: Json = translate(request, upstream).body
        prompt: Json = {name: body[name] for name in ("contents", "systemInstruction", "tools") if name in body}
        answer = await self._client.post_json(
            upstream,
            self.path(upstream, "countTokens"),
            self.counted(upstream, prompt),
            key_header=self.key_header,
            errors=self.read_error,
        )
        with reading("Google"):
            return {"input_tokens": int(answer["totalTokens"])}

    async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]:
        """The rows of ``models.list``, of all its pages; see :class:`backends.base.Discover`."""
        entries: list[Json] = []
        query = {"pageSize": discovery.PAGE}
        for _ in range(discovery.MAX_PAGES):
            page = await self._client.get_json(
                upstream, "/models", query=query, key_header=self.key_header, errors=self.read_error
            )
            with reading("Google"):
                entries += page.get("models") or ()
                token = page.get("nextPageToken")
            if not token:
                break
            query = {"pageSize": discovery.PAGE, "pageToken": str(token)}
        return discovery.rows_from_models(server, entries)

    async def embed_contents(self, upstream: Upstream, request: MixedEmbeddingRequest) -> Json:
        """See :class:`backends.base.EmbedContents`."""
        return await self._embedded(upstream, request)

    async def embed(self, upstream: Upstream, request: EmbeddingRequest) -> Json:
        """The list object; see :class:`backends.base.Embed`. Batches are sent one after another."""
        return await self._embedded(upstream, request)

    async def _embedded(self, upstream: Upstream, request: EmbeddingRequest | MixedEmbeddingRequest) -> Json:
        bodies, _ = embeddings.translate(request, upstream)
        answers = [
            await self._client.post_json(
                upstream,
                self.path(upstream, "batchEmbedContents"),
                body,
                key_header=self.key_header,
                errors=self.read_error,
            )
            for body in bodies
        ]
        with reading("Google"):
            return embeddings.assemble(request, upstream, answers)

    def film(self, upstream: Upstream, request: VideoRequest) -> AsyncIterator[VideoItem]:
        """A video in the making; see :class:`backends.base.Film`."""
        return self.videos().film(upstream, request)

    async def discard(self, upstream: Upstream, request: DiscardRequest) -> Json:
        """See :class:`backends.base.Discard`."""
        return await self.videos().discard(upstream, request)

    def draw(self, upstream: Upstream, request: ImageRequest) -> AsyncIterator[Json]:
        """The events of pictures; see :class:`backends.base.Draw`. They are asked for one after another."""
        return pictures.events(self.chat, upstream, request, "image_generation")

    def edit(self, upstream: Upstream, request: ImageEditRequest) -> AsyncIterator[Json]:
        """The events of changed pictures; see :class:`backends.base.EditImages`."""
        return pictures.events(self.chat, upstream, request, "image_edit")

    # ---- for subclasses

    def videos(self) -> GoogleVideos:
        """The calls for videos."""
        return GoogleVideos(self._client, key_header=self.key_header, errors=self.read_error, path=self.path)

    def counted(self, upstream: Upstream, prompt: Json) -> Json:
        """The body that asks for the tokens of a prompt: instructions and tools stand in a whole request only."""
        return {"generateContentRequest": {"model": embeddings.model_path(upstream.model), **prompt}}

    def path(self, upstream: Upstream, method: str) -> str:
        """The path of a method of the model."""
        return f"/{quote(embeddings.model_path(upstream.model), safe='/')}:{method}"

    def read_error(
        self, status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
    ) -> RoundhouseError:
        """The typed error of an answer that is not 2xx."""
        return read_google_error(status, headers, body, upstream)
