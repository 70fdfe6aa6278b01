"""Calls to Ollama: chats and embeddings over its own API, completions over its OpenAI-compatible ``/v1``.

``base_url`` may be given with or without ``/v1``. A server without Ollama's own routes is called over ``/v1``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from backends.adapting.files import with_text_files
from backends.adapting.restoring import restorer_of
from backends.adapting.tools import restoration_for
from backends.base import Upstream
from backends.fetch import Fetcher
from backends.http import HttpClient
from backends.ollama import discovery
from backends.ollama.errors import read_ollama_error
from backends.ollama.request import EFFORTS, TOOLS, embedding_body, embedding_dropped, translate
from backends.ollama.stream import OllamaStream
from backends.openai.backend import OpenAIBackend
from backends.openai.documents import embedding_list
from backends.parameters import (
    LLAMA_SAMPLERS,
    OTHER_ANSWERS,
    ParameterTable,
    refuse_forbidden,
)
from backends.pictures.media import with_media
from backends.pictures.redrawing import Redrawer
from backends.translation import reading
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from catalog.errors import ContextLengthExceeded, PathMissing
from catalog.model import Endpoint, Model
from catalog.types import Json

V1 = ParameterTable(
    drops=LLAMA_SAMPLERS
    | {"n", "logit_bias", "tool_choice", "parallel_tool_calls", "user", "metadata", "best_of", "echo"},
    renames={"max_completion_tokens": "max_tokens"},
    unknown_pass=False,
    unmarked=False,
    choices=1,
    refuses=OTHER_ANSWERS,
    efforts=lambda _: EFFORTS,
    tools=TOOLS,
)
"""Ollama's ``/v1``. Source: its page on OpenAI compatibility."""

RECHECK = 3600.0
"""Seconds after which a server that lacked Ollama's own routes is asked for them again."""
AFTER_DONE = 0.05
"""Seconds in which a stream may end after its last line, so that its connection can be used again."""
_VECTOR = 8192 * 25
"""Bytes of a long vector as text."""


class _V1(OpenAIBackend):
    """OpenAI's wire as Ollama takes it."""

    def parameters(self, upstream: Upstream) -> ParameterTable:
        del upstream
        return V1


class OllamaBackend:
    """Chat, completions and embeddings of models that an Ollama serves, and the list of them.

    ``now`` returns Unix seconds.
    """

    def __init__(self, http: HttpClient, *, now: Callable[[], float] = time.time) -> None:
        self._http = http
        self._openai = _V1(http)
        self._fetcher = Fetcher(http.settings.fetch)
        self._redrawer = Redrawer()
        self._now = now
        self._foreign: dict[str, float] = {}
        self._shown = discovery.Shown()

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        if self._over_v1(upstream, request):
            return self._openai.dropped(request, upstream)
        if isinstance(request, ChatRequest):
            return translate(_without_pictures(request), upstream).dropped
        if isinstance(request, EmbeddingRequest):
            return embedding_dropped(request)
        return self._openai.dropped(request, upstream)

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncGenerator[Json]:
        """The chunks of the answer; see :class:`backends.base.Chat`. A picture's URL is fetched, or refused."""
        refuse_forbidden(request)
        if not self._over_v1(upstream, request):
            try:
                async with aclosing(self._native(upstream, request)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except PathMissing:
                self._note_foreign(upstream)
        async with aclosing(self._openai.chat(_v1(upstream), request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def complete(self, upstream: Upstream, request: CompletionRequest) -> AsyncGenerator[Json]:
        """Chunks as of :meth:`OpenAIBackend.complete`; afterwards ``keep_alive`` is set, if the request has it."""
        async with aclosing(self._openai.complete(_v1(upstream), request)) as chunks:
            async for chunk in chunks:
                yield chunk
        keep_alive = (request.model_extra or {}).get("keep_alive")
        if keep_alive is not None:  # the last call decides, and /v1 has no field for it
            body = {"model": upstream.model, "keep_alive": keep_alive, "stream": False}
            await self._http.post_json(_root(upstream), "/api/generate", body, errors=read_ollama_error)

    async def embed(self, upstream: Upstream, request: EmbeddingRequest) -> Json:
        """OpenAI's list; see :class:`backends.base.Embed`. A text that does not fit is refused, not cut."""
        refuse_forbidden(request)
        if self._over_v1(upstream, request):
            return await self._openai.embed(_v1(upstream), request)
        body = embedding_body(request, upstream)
        try:
            answer = await self._http.post_json(
                _root(upstream), "/api/embed", body, room=len(body["input"]) * _VECTOR, errors=read_ollama_error
            )
        except PathMissing:
            self._note_foreign(upstream)
            return await self._openai.embed(_v1(upstream), request)
        except ContextLengthExceeded as error:
            error.param = "input"
            raise
        with reading(f"The endpoint '{upstream.endpoint}'"):
            rows = [{"index": at, "embedding": vector} for at, vector in enumerate(answer["embeddings"])]
            count = answer.get("prompt_eval_count")
            usage = {} if count is None else {"usage": {"prompt_tokens": count, "total_tokens": count}}
        return embedding_list({"data": rows, "model": upstream.model, **usage}, request, upstream)

    async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]:
        """The rows of the server's models; see :mod:`backends.ollama.discovery`."""
        return await discovery.list_models(self._http, _root(upstream), server, self._shown)

    async def _native(self, upstream: Upstream, request: ChatRequest) -> AsyncGenerator[Json]:
        restorer = restorer_of(restoration_for(request, TOOLS))
        call = translate(await self._with_pictures(with_text_files(request)), upstream)
        answer = OllamaStream(upstream, call, created=int(self._now()))
        async with (
            self._http.open(
                _root(upstream), "POST", "/api/chat", json=call.body, errors=read_ollama_error
            ) as response,
            aclosing(response.lines()) as lines,
        ):
            async for line in lines:
                for chunk in answer.feed(line):
                    yield chunk if restorer is None else restorer.restore(chunk)
                if answer.finished:
                    await response.drain(AFTER_DONE)
                    break
        answer.close()

    async def _with_pictures(self, request: ChatRequest) -> ChatRequest:
        """The request with every picture as a ``data:`` URL: Ollama fetches none."""
        if not any(isinstance(message.content, list) for message in request.messages):
            return request
        given = [message.model_dump(mode="json", exclude_unset=True) for message in request.messages]
        body = await with_media({"messages": given}, self._fetcher, self._redrawer)
        messages = [
            type(message).model_validate(told)
            for message, told in zip(request.messages, body["messages"], strict=True)
        ]
        return request.model_copy(update={"messages": messages})

    def _over_v1(self, upstream: Upstream, request: WireModel) -> bool:
        """Whether the server was seen to lack Ollama's own routes, or they do not hold the request: recordings."""
        seen = self._foreign.get(upstream.base_url)
        if seen is not None and self._now() - seen < RECHECK:
            return True
        return isinstance(request, ChatRequest) and any(
            part.type == "input_audio"
            for message in request.messages
            if isinstance(message.content, list)
            for part in message.content
        )

    def _note_foreign(self, upstream: Upstream) -> None:
        self._foreign[upstream.base_url] = self._now()


def _without_pictures(request: ChatRequest) -> ChatRequest:
    """The request with its texts alone, whose parameters are the same: pictures may not be here yet."""
    if not any(isinstance(message.content, list) for message in request.messages):
        return request
    messages = [
        message
        if not isinstance(message.content, list)
        else message.model_copy(update={"content": [part for part in message.content if part.type != "image_url"]})
        for message in request.messages
    ]
    return request.model_copy(update={"messages": messages})


def _root(upstream: Upstream) -> Upstream:
    return replace(upstream, base_url=upstream.base_url.rstrip("/").removesuffix("/v1"))


def _v1(upstream: Upstream) -> Upstream:
    return replace(upstream, base_url=_root(upstream).base_url + "/v1")
