"""Calls to Google's Gemini API: one streamed request per chat, batches of embeddings."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

from backends.base import Upstream
from backends.google import embeddings
from backends.google.errors import read_google_error
from backends.google.request import translate
from backends.google.stream import GeminiStream
from backends.http import HttpClient
from backends.translation import reading
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from backends.wire.embeddings import EmbeddingRequest
from catalog.errors import UpstreamError
from catalog.types import Json

_KEY_HEADER = "x-goog-api-key"


class GoogleBackend:
    """Chat and embeddings. ``base_url`` includes the version: ``https://generativelanguage.googleapis.com/v1beta``.

    ``now`` returns Unix seconds.
    """

    def __init__(self, client: HttpClient, *, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._now = now

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        if isinstance(request, ChatRequest):
            return translate(request, upstream).dropped
        if isinstance(request, EmbeddingRequest):
            return embeddings.translate(request, upstream)[1]
        return ()

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncIterator[Json]:
        """The chunks of the answer; see :class:`backends.base.Chat`."""
        body = translate(request, upstream).body
        answer = GeminiStream(upstream, created=int(self._now()))
        async with self._client.open(
            upstream,
            "POST",
            _path(upstream, "streamGenerateContent"),
            json=body,
            query={"alt": "sse"},
            key_header=_KEY_HEADER,
            errors=read_google_error,
        ) as response:
            answer.service_tier = response.headers.get("x-gemini-service-tier")
            try:
                async for event in response.events():
                    for chunk in answer.feed(event.json()):
                        yield chunk
            except UpstreamError:
                if not answer.finished:  # an error after its end does not change the answer
                    raise
        for chunk in answer.finish():
            yield chunk

    async def embed(self, upstream: Upstream, request: EmbeddingRequest) -> Json:
        """The list object; see :class:`backends.base.Embed`. Batches are sent one after another."""
        bodies, _ = embeddings.translate(request, upstream)
        answers = [
            await self._client.post_json(
                upstream,
                _path(upstream, "batchEmbedContents"),
                body,
                key_header=_KEY_HEADER,
                errors=read_google_error,
            )
            for body in bodies
        ]
        with reading("Google"):
            return embeddings.assemble(request, upstream, answers)


def _path(upstream: Upstream, method: str) -> str:
    return f"/{quote(embeddings.model_path(upstream.model), safe='/')}:{method}"
