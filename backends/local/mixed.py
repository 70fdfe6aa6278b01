"""Embeddings of pictures by llama-server: prompts with a marker in the place of each picture.

Source: llama.cpp's page on its server (``prompt_string``, ``multimodal_data``; ``media_marker`` of ``/props``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from backends.base import Upstream
from backends.local.model.tokens import WorkerTokens, only_llamacpp
from backends.openai.backend import OpenAIBackend
from backends.openai.mixed import chats_of
from backends.wire.media import read_data_url
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from backends.workers.engines.common.prompts import Prompts
from catalog.types import Json

_MARKER = "<__media__>"
"""The marker of versions that tell none."""
Seen = Callable[[Json, Upstream], Awaitable[Json]]
"""Makes the pictures of a chat's body data URLs of checked bytes."""


class LocalMixedEmbeddings:
    """Embeds texts and pictures by workers of this machine: llama-server and vLLM."""

    def __init__(self, wire: OpenAIBackend, tokens: WorkerTokens, seen: Seen) -> None:
        self._wire = wire
        self._tokens = tokens
        self._seen = seen

    async def embed(self, upstream: Upstream, request: MixedEmbeddingRequest) -> Json:
        """The list of vectors. Raises CapabilityMismatch at an engine that sees nothing."""
        if upstream.engine != "vllm":
            only_llamacpp(upstream, "embeds no pictures")
        chats = [
            (await self._seen({"messages": messages}, upstream))["messages"] for messages in chats_of(request)
        ]
        if upstream.engine == "vllm":
            return await self._wire.embed_chats(upstream, request, chats)
        marker = str((await self._tokens.props(upstream)).get("media_marker") or _MARKER)
        inputs = [await self._input(upstream, request, messages, marker) for messages in chats]
        return await self._wire.embed_inputs(upstream, request, inputs)

    async def _input(
        self, upstream: Upstream, request: MixedEmbeddingRequest, messages: list[Json], marker: str
    ) -> Json:
        """One input: its parts one after another behind the row's prompt, or a chat in the model's template."""
        pictures: list[str] = []
        told = [_marked(message, marker, pictures) for message in messages]
        if request.messages is not None:
            prompt = str((await self._tokens.template(upstream, {"messages": told}))["prompt"])
        else:
            before = Prompts.model_validate(upstream.prompts).before(request.input_type, request.instruction)
            prompt = before + "".join(str(message["content"]) for message in told)
        return {"prompt_string": prompt, "multimodal_data": pictures}


def _marked(message: Json, marker: str, pictures: list[str]) -> Json:
    """The message as a text with a marker for each picture, whose base64 is added to ``pictures``."""
    content = message.get("content")
    if not isinstance(content, list):
        return {**message, "content": str(content or "").replace(marker, "")}
    pieces = []
    for part in content:
        if part.get("image_url") is None:
            pieces.append(str(part.get("text") or "").replace(marker, ""))
        else:
            pictures.append(read_data_url(part["image_url"]["url"])[1])
            pieces.append(marker)
    return {**message, "content": "".join(pieces)}
