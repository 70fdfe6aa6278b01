"""Ollama: calls over its OpenAI-compatible ``/v1``, and its own API for what that lacks.

``base_url`` may be given with or without ``/v1``. Source: Ollama's pages on its API and on OpenAI compatibility.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from backends.base import Upstream
from backends.discover import Listing
from backends.http import HttpClient
from backends.openai.backend import OpenAIBackend
from backends.openai.forms import dropped
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from catalog.types import Json


class OllamaBackend:
    """Chat, completions and embeddings of models that an Ollama serves, and the list of them."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._openai = OpenAIBackend(http)

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """The parameters of this request that this upstream will not be sent. Pure and quick."""
        return dropped(request, upstream)

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncGenerator[Json]:
        """Chunks, as :meth:`OpenAIBackend.chat`; then ``keep_alive`` is set, if the request has it."""
        async with aclosing(self._openai.chat(_v1(upstream), request)) as chunks:
            async for chunk in chunks:
                yield chunk
        await self._keep_alive(upstream, request)

    async def complete(self, upstream: Upstream, request: CompletionRequest) -> AsyncGenerator[Json]:
        """Chunks, as :meth:`OpenAIBackend.complete`."""
        async with aclosing(self._openai.complete(_v1(upstream), request)) as chunks:
            async for chunk in chunks:
                yield chunk
        await self._keep_alive(upstream, request)

    async def embed(self, upstream: Upstream, request: EmbeddingRequest) -> Json:
        """OpenAI's list. Ollama's /v1 takes no ``keep_alive`` here either, so it is set afterwards."""
        answer = await self._openai.embed(_v1(upstream), request)
        await self._keep_alive(upstream, request)
        return answer

    async def list_models(self, upstream: Upstream) -> Listing:
        """``/api/tags``, with ``/api/show`` of each model (capabilities, context) and ``/api/ps`` (loaded now)."""
        root = _root(upstream)
        tags = await self._http.get_json(root, "/api/tags")
        loaded = await self._http.get_json(root, "/api/ps")
        shown: dict[str, Any] = {}
        for row in tags.get("models") or ():
            name = row.get("model") or row.get("name")
            if isinstance(name, str):
                shown[name] = await self._http.post_json(root, "/api/show", {"model": name})
        names = (row.get("model") or row.get("name") for row in loaded.get("models") or ())
        return Listing(
            models=tags, details=shown, loaded=frozenset(name for name in names if isinstance(name, str))
        )

    async def _keep_alive(self, upstream: Upstream, request: WireModel) -> None:
        """Tell Ollama how long to keep the model; the last call's word counts, and /v1 cannot carry it."""
        keep_alive = (request.model_extra or {}).get("keep_alive")
        if keep_alive is None:
            return
        body = {"model": upstream.model, "keep_alive": keep_alive, "stream": False}
        await self._http.post_json(_root(upstream), "/api/generate", body)


def _root(upstream: Upstream) -> Upstream:
    return replace(upstream, base_url=upstream.base_url.rstrip("/").removesuffix("/v1"))


def _v1(upstream: Upstream) -> Upstream:
    return replace(upstream, base_url=_root(upstream).base_url + "/v1")
