"""Calls to Anthropic: one streamed request per chat.

A caller of the Messages API is passed through: its own body goes out, and its chunks carry Anthropic's events.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping

from backends.adapting.restoring import restorer_of
from backends.anthropic import discovery
from backends.anthropic.errors import read_anthropic_error
from backends.anthropic.native import counted_body, native_request
from backends.anthropic.request import answers_by_tool, translate
from backends.anthropic.stream import AnthropicStream
from backends.base import Upstream
from backends.http import HttpClient
from backends.native import original_for
from backends.streams.native import carry
from backends.translation import reading
from backends.wire.chat import ChatRequest, Original
from backends.wire.common import WireModel
from catalog.errors import UpstreamError
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


class AnthropicBackend:
    """Chat, and counting its tokens. ``base_url`` is the host without ``/v1``, as in Anthropic's own SDK.

    ``now`` returns Unix seconds. ``upstream.headers`` may name beta features or another version.
    """

    def __init__(self, client: HttpClient, *, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._now = now

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        if (original := original_for(self, request, upstream)) is not None:
            return native_request(original, upstream).dropped
        return translate(request, upstream).dropped if isinstance(request, ChatRequest) else ()

    def speaks(self, wire: str, upstream: Upstream) -> bool:
        """See :class:`backends.native.Native`."""
        del upstream
        return wire == "messages"

    async def count(self, upstream: Upstream, request: ChatRequest) -> Json:
        """The prompt tokens by Anthropic's own count; see :class:`backends.base.Count`."""
        original = original_for(self, request, upstream)
        body = (native_request(original, upstream) if original else translate(request, upstream)).body
        answer = await self._client.post_json(
            upstream,
            "/v1/messages/count_tokens",
            counted_body(body),
            headers=_headers(upstream, original),
            query=None if original is None else original.query,
            key_header="x-api-key",
            errors=read_anthropic_error,
        )
        with reading("Anthropic"):
            return {"input_tokens": int(answer["input_tokens"])}

    async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]:
        """The rows of ``GET /v1/models``, of all its pages; see :class:`backends.base.Discover`."""
        entries: list[Json] = []
        query = {"limit": discovery.PAGE}
        for _ in range(discovery.MAX_PAGES):
            page = await self._client.get_json(
                upstream,
                "/v1/models",
                query=query,
                headers=_headers(upstream, None),
                key_header="x-api-key",
                errors=read_anthropic_error,
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
        translated = native_request(original, upstream) if original else translate(request, upstream)
        body, restorer = translated.body, restorer_of(translated.restoration)
        by_tool = original is None and answers_by_tool(body)
        answer = AnthropicStream(
            upstream, created=int(self._now()), answer_by_tool=by_tool, resumes=original is None
        )
        while not answer.finished:
            async with self._client.open(
                upstream,
                "POST",
                "/v1/messages",
                json=body,
                headers=_headers(upstream, original, fast=body.get("speed") is not None),
                query=None if original is None else original.query,
                key_header="x-api-key",
                errors=read_anthropic_error,
            ) as response:
                try:
                    async for event in response.events():
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


def _headers(upstream: Upstream, original: Original | None, *, fast: bool = False) -> dict[str, str]:
    """The version and the beta features: the caller's beside the endpoint's, and that of a chat's ``speed``."""
    own = {name.lower(): value for name, value in upstream.headers.items()}
    given: Mapping[str, str] = {BETA: FAST_MODE} if fast and original is None else {}
    if original is not None:
        given = original.headers
    headers = {"anthropic-version": API_VERSION, **own, **given}
    if own.get(BETA) and given.get(BETA):
        headers[BETA] = f"{own[BETA]},{given[BETA]}"
    return headers
