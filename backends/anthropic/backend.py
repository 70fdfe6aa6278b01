"""Calls to Anthropic: one streamed request per chat.

A caller of the Messages API is passed through: its own body goes out, and its chunks carry Anthropic's events.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

from backends.adapting.restoring import restorer_of
from backends.anthropic import discovery
from backends.anthropic.errors import read_anthropic_error
from backends.anthropic.native import counted_body, native_request
from backends.anthropic.request import answers_by_tool, translate
from backends.anthropic.stream import AnthropicStream
from backends.base import Upstream
from backends.http import HttpClient, UpstreamResponse
from backends.native import original_for
from backends.streams.native import carry
from backends.streams.sse import ServerSentEvent
from backends.translation import TranslatedRequest, reading
from backends.wire.chat import ChatRequest, Original
from backends.wire.common import WireModel
from catalog.errors import RoundhouseError, UpstreamError
from catalog.model import Endpoint, Model
from catalog.types import Json

API_VERSION = "2023-06-01"
"""The version of the wire, which Anthropic requires in a header.

Its SDK sends 2026-10-21, which has no sampling parameters; in this version, the models that still sample take
temperature. Anthropic promises to keep the inputs and outputs of a version.
"""


BETA = "anthropic-beta"
FAST_MODE = "fast-mode-2026-02-01"
"""The beta feature that some models require for any ``speed``."""
MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"


class AnthropicBackend:
    """Chat, and counting its tokens. ``base_url`` is the host without ``/v1``, as in Anthropic's own SDK.

    ``now`` returns Unix seconds. ``upstream.headers`` may name beta features or another version. A subclass is a
    place that serves the same API otherwise; it overrides what differs.
    """

    key_header: ClassVar[str] = "x-api-key"

    def __init__(self, client: HttpClient, *, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._now = now

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        return self.translated(request, upstream).dropped if isinstance(request, ChatRequest) else ()

    def speaks(self, wire: str, upstream: Upstream) -> bool:
        """See :class:`backends.native.Native`."""
        del upstream
        return wire == "messages"

    async def count(self, upstream: Upstream, request: ChatRequest) -> Json:
        """The prompt tokens by Anthropic's own count; see :class:`backends.base.Count`."""
        original = original_for(self, request, upstream)
        body = self.translated(request, upstream).body
        path, body, headers = self.addressed(
            COUNT, upstream, counted_body(body), request_headers(upstream, original)
        )
        answer = await self._client.post_json(
            upstream,
            path,
            body,
            headers=headers,
            query=None if original is None else original.query,
            key_header=self.key_header,
            errors=self.read_error,
        )
        with reading("Anthropic"):
            return {"input_tokens": int(self.counted(answer))}

    async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]:
        """The rows of ``GET /v1/models``, of all its pages; see :class:`backends.base.Discover`."""
        entries: list[Json] = []
        query = {"limit": discovery.PAGE}
        for _ in range(discovery.MAX_PAGES):
            page = await self._client.get_json(
                upstream,
                "/v1/models",
                query=query,
                headers=request_headers(upstream, None),
                key_header=self.key_header,
                errors=self.read_error,
            )
            with reading("Anthropic"):
                entries += page["data"]
                if not page.get("has_more"):
                    break
                query = {"limit": discovery.PAGE, "after_id": str(page["last_id"])}
        return discovery.rows_from_models(server, entries)

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncIterator[Json]:
        """The chunks of the answer; see :class:`backends.base.Chat`."""
        original = original_for(self, request, upstream)
        translated = self.translated(request, upstream)
        body, restorer = translated.body, restorer_of(translated.restoration)
        by_tool = original is None and answers_by_tool(body)
        answer = AnthropicStream(
            upstream, created=int(self._now()), answer_by_tool=by_tool, resumes=original is None
        )
        while not answer.finished:
            headers = request_headers(upstream, original, fast=body.get("speed") is not None)
            path, sent, headers = self.addressed(MESSAGES, upstream, body, headers)
            async with self._client.open(
                upstream,
                "POST",
                path,
                json=sent,
                headers=headers,
                query=None if original is None else original.query,
                key_header=self.key_header,
                errors=self.read_error,
            ) as response:
                answer.service_tier = self.served_tier(response)
                try:
                    async for event in self.events(response, upstream):
                        read = event.json()
                        chunks = answer.feed(read)
                        for chunk in chunks if original is None else carry(chunks, read):
                            yield chunk if restorer is None else restorer.restore(chunk)
                except UpstreamError:
                    if not answer.finished:  # an error after its end does not change the answer
                        raise
            answer.close()
            if answer.paused:
                body = answer.resume(body)

    # ---- for subclasses

    def translated(self, request: ChatRequest, upstream: Upstream) -> TranslatedRequest:
        """The body of a chat, and what it lacks: the caller's own body, or a translation of OpenAI's."""
        original = original_for(self, request, upstream)
        return translate(request, upstream) if original is None else native_request(original, upstream)

    def addressed(
        self, path: str, upstream: Upstream, body: Json, headers: dict[str, str]
    ) -> tuple[str, Json, dict[str, str]]:
        """The path, body and headers of a call that goes to ``path`` of Anthropic's own server."""
        del upstream
        return path, body, headers

    def events(self, response: UpstreamResponse, upstream: Upstream) -> AsyncIterator[ServerSentEvent]:
        """The events of a streamed answer."""
        del upstream
        return response.events()

    def served_tier(self, response: UpstreamResponse) -> str | None:
        """OpenAI's name of the tier of service that the head of an answer tells; Anthropic's events tell it."""
        del response
        return None

    def counted(self, answer: Json) -> Any:
        """The number in the answer to a count of tokens."""
        return answer["input_tokens"]

    def read_error(
        self, status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
    ) -> RoundhouseError:
        """The typed error of an answer that is not 2xx."""
        return read_anthropic_error(status, headers, body, upstream)


def request_headers(upstream: Upstream, original: Original | None, *, fast: bool = False) -> dict[str, str]:
    """The version and the beta features: the caller's beside the endpoint's, and that of a chat's ``speed``."""
    own = {name.lower(): value for name, value in upstream.headers.items()}
    given: Mapping[str, str] = {BETA: FAST_MODE} if fast and original is None else {}
    if original is not None:
        given = original.headers
    headers = {"anthropic-version": API_VERSION, **own, **given}
    if own.get(BETA) and given.get(BETA):
        headers[BETA] = f"{own[BETA]},{given[BETA]}"
    return headers
