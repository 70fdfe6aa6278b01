"""Embeddings of pictures over OpenAI's wire: a chat for each vector, as vLLM takes it, or Jina's inputs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from backends.base import Upstream
from backends.openai.documents import embedding_list
from backends.wire.chat import ContentPart
from backends.wire.common import WireModel
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from catalog.errors import CapabilityMismatch, UpstreamProtocolError
from catalog.types import Json

AT_ONCE = 4
"""Calls of one request at a time."""


class MixedEmbeddings:
    """The part of OpenAI's backend that embeds pictures."""

    def body(self, request: WireModel, upstream: Upstream) -> Json:
        raise NotImplementedError

    async def _post(self, upstream: Upstream, path: str, body: Json, param: str, *, room: int = 0) -> Json:
        raise NotImplementedError

    async def embed_contents(self, upstream: Upstream, request: MixedEmbeddingRequest) -> Json:
        """See :class:`backends.base.EmbedContents`."""
        if (urlsplit(upstream.base_url).hostname or "").endswith("jina.ai"):
            return await self.embed_inputs(upstream, request, [_of_jina(parts) for parts in request.contents()])
        return await self.embed_chats(upstream, request, chats_of(request))

    async def embed_inputs(self, upstream: Upstream, request: MixedEmbeddingRequest, inputs: list[Json]) -> Json:
        """Embed objects that the server knows, in one call."""
        body = {**self._without_contents(upstream, request), "input": inputs}
        return embedding_list(await self._post(upstream, "/embeddings", body, "input"), request, upstream)

    async def embed_chats(
        self, upstream: Upstream, request: MixedEmbeddingRequest, chats: Sequence[list[Json]]
    ) -> Json:
        """Embed chats, each in a call of its own."""
        common = self._without_contents(upstream, request)
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(messages: list[Json]) -> Json:
            async with turn:
                return await self._post(upstream, "/embeddings", {**common, "messages": messages}, "input")

        try:
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(one(messages)) for messages in chats]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return embedding_list(joined([call.result() for call in calls], upstream), request, upstream)

    def _without_contents(self, upstream: Upstream, request: MixedEmbeddingRequest) -> Json:
        body = self.body(request, upstream)
        return {name: value for name, value in body.items() if name not in ("input", "messages")}


def chats_of(request: MixedEmbeddingRequest) -> list[list[Json]]:
    """The messages for each vector."""
    if request.messages is not None:
        request.contents()
        return [[message.model_dump(mode="json", exclude_unset=True) for message in request.messages]]
    return [
        [{"role": "user", "content": [part.model_dump(mode="json", exclude_unset=True) for part in parts]}]
        for parts in request.contents()
    ]


def joined(answers: list[Json], upstream: Upstream) -> Json:
    """One list of the lists of single vectors, with the sum of their usage."""
    rows: list[Json] = []
    tokens = 0
    for at, answer in enumerate(answers):
        data = answer.get("data")
        if not isinstance(data, list) or len(data) != 1 or not isinstance(data[0], dict):
            raise UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' gave no vector for an input.")
        rows.append({**data[0], "index": at})
        used: Any = (answer.get("usage") or {}).get("prompt_tokens")
        tokens += used if isinstance(used, int) else 0
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": upstream.model, "data": rows, "usage": usage}


def _of_jina(parts: list[ContentPart]) -> Json:
    if len(parts) != 1:
        raise CapabilityMismatch(
            "Jina's models make a vector of a text or of a picture, not of both together.", param="input"
        )
    (part,) = parts
    if part.image_url is None:
        return {"text": part.text}
    return {"image": str(part.image_url.get("url") or "").rpartition(";base64,")[2]}
