"""Ollama: calls over its OpenAI-compatible ``/v1``, and over its own API for lists and ``keep_alive``.

``base_url`` may be given with or without ``/v1``. Source: Ollama's pages on its API and on OpenAI compatibility.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from backends.adapting.tools import ToolRules
from backends.base import Upstream
from backends.http import HttpClient
from backends.openai.backend import OpenAIBackend
from backends.parameters import LLAMA_SAMPLERS, OTHER_ANSWERS, ParameterTable
from backends.translation import reading
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from catalog.discovery import MAX_LISTED, FoundRows, discovered_rows, is_positive, listed_entries
from catalog.errors import RoundhouseError, UpstreamUnreachable
from catalog.model import Capability, Endpoint, Model, Size
from catalog.types import Json

_EFFORTS = frozenset({"none", "low", "medium", "high"})
PARAMETERS = ParameterTable(
    drops=LLAMA_SAMPLERS
    | {"n", "logit_bias", "tool_choice", "parallel_tool_calls", "user", "metadata", "best_of", "echo"},
    renames={"max_completion_tokens": "max_tokens"},
    extras=frozenset({"keep_alive"}),
    unknown_pass=False,
    unmarked=False,
    choices=1,
    refuses=OTHER_ANSWERS,
    efforts=lambda _: _EFFORTS,
    tools=ToolRules(refused_roots=frozenset({"anyOf", "oneOf", "allOf"}), media_results=False),
)
"""Ollama's ``/v1``. Source: its page on OpenAI compatibility."""

_CAPABILITIES = {
    "completion": frozenset({Capability.CHAT, Capability.COMPLETION, Capability.JSON_SCHEMA}),
    "tools": frozenset({Capability.TOOLS}),
    "vision": frozenset({Capability.VISION}),
    "thinking": frozenset({Capability.REASONING}),
    "embedding": frozenset({Capability.EMBED}),
    "audio": frozenset({Capability.AUDIO_INPUT}),
}
"""Ollama's names of capabilities (its API documentation, ``/api/tags`` and ``/api/show``)."""


class _V1(OpenAIBackend):
    """OpenAI's wire as Ollama takes it."""

    def parameters(self, upstream: Upstream) -> ParameterTable:
        del upstream
        return PARAMETERS


class OllamaBackend:
    """Chat, completions and embeddings of models that an Ollama serves, and the list of them."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._openai = _V1(http)

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        return self._openai.dropped(request, upstream)

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncGenerator[Json]:
        """Chunks as of :meth:`OpenAIBackend.chat`; afterwards ``keep_alive`` is set, if the request has it."""
        async with aclosing(self._openai.chat(_v1(upstream), request)) as chunks:
            async for chunk in chunks:
                yield chunk
        await self._keep_alive(upstream, request)

    async def complete(self, upstream: Upstream, request: CompletionRequest) -> AsyncGenerator[Json]:
        """Chunks as of :meth:`OpenAIBackend.complete`; ``keep_alive`` as for a chat."""
        async with aclosing(self._openai.complete(_v1(upstream), request)) as chunks:
            async for chunk in chunks:
                yield chunk
        await self._keep_alive(upstream, request)

    async def embed(self, upstream: Upstream, request: EmbeddingRequest) -> Json:
        """OpenAI's list; ``keep_alive`` as for a chat."""
        answer = await self._openai.embed(_v1(upstream), request)
        await self._keep_alive(upstream, request)
        return answer

    async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]:
        """The rows of ``/api/tags``, with capabilities and context from ``/api/show`` of each model."""
        root = _root(upstream)
        tags = await self._http.get_json(root, "/api/tags")
        shown: dict[str, Json] = {}
        for row in listed_entries(tags, "models")[:MAX_LISTED]:
            name = row.get("model") or row.get("name")
            if isinstance(name, str):
                shown[name] = await self._shown(root, name)
        with reading(f"The endpoint '{upstream.endpoint}'"):
            return await asyncio.to_thread(rows_from_tags, server, tags, shown)

    async def _shown(self, root: Upstream, name: str) -> Json:
        """The details of one model; empty if the server has none to tell. Raises UpstreamUnreachable."""
        try:
            details = await self._http.post_json(root, "/api/show", {"model": name})
        except UpstreamUnreachable:
            raise
        except RoundhouseError:
            return {}
        return details if isinstance(details, dict) else {}

    async def _keep_alive(self, upstream: Upstream, request: WireModel) -> None:
        """Set how long Ollama keeps the model loaded: the last call decides, and ``/v1`` has no field for it."""
        keep_alive = (request.model_extra or {}).get("keep_alive")
        if keep_alive is None:
            return
        body = {"model": upstream.model, "keep_alive": keep_alive, "stream": False}
        await self._http.post_json(_root(upstream), "/api/generate", body)


def rows_from_tags(
    server: Endpoint, document: Json, details: Mapping[str, Json] = MappingProxyType({})
) -> FoundRows:
    """Make rows from Ollama's ``GET /api/tags``, which gives family, size and quantisation.

    ``details`` holds the documents of ``POST /api/show`` by model, as far as they were fetched: older versions
    give capabilities and context only there.
    """

    def described(entry: Json) -> Mapping[str, Any]:
        name = entry.get("model") or entry.get("name")
        facts = entry.get("details")
        facts = facts if isinstance(facts, dict) else {}
        shown = details.get(name, {}) if isinstance(name, str) else {}
        known = entry.get("capabilities") or shown.get("capabilities")
        words = map(str, known) if isinstance(known, list) else ()
        size = entry.get("size")
        return {
            "name": name,
            "context": entry.get("context_length") or facts.get("context_length") or _shown_context(shown),
            "kind": str(facts.get("family") or ""),
            "capabilities": frozenset().union(*(_CAPABILITIES.get(word, frozenset()) for word in words)),
            "family": str(facts["family"]) if facts.get("family") else None,
            "size": Size(
                parameters=_count(facts.get("parameter_size")),
                disk=size if is_positive(size) else None,
                quantization=str(facts.get("quantization_level") or "") or None,
            ),
        }

    return discovered_rows(server, listed_entries(document, "models"), described)


def _shown_context(shown: Json) -> Any:
    info = shown.get("model_info")
    if not isinstance(info, dict):
        return None
    return info.get(f"{info.get('general.architecture')}.context_length")


def _count(text: Any) -> int | None:
    """Parse a count such as ``8.0B``."""
    match = re.fullmatch(r"([\d.]+)([KMBT])", str(text or ""))
    if match is None:
        return None
    return round(float(match[1]) * {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}[match[2]])


def _root(upstream: Upstream) -> Upstream:
    return replace(upstream, base_url=upstream.base_url.rstrip("/").removesuffix("/v1"))


def _v1(upstream: Upstream) -> Upstream:
    return replace(upstream, base_url=_root(upstream).base_url + "/v1")
