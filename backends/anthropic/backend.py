"""Calls to Anthropic: one streamed request per chat."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from backends.anthropic.errors import read_anthropic_error
from backends.anthropic.request import answers_by_tool, translate
from backends.anthropic.stream import AnthropicStream
from backends.base import Upstream
from backends.http import HttpClient
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from catalog.errors import UpstreamError
from catalog.types import Json

API_VERSION = "2023-06-01"
"""The version of the wire, which Anthropic requires in a header.

Its SDK sends 2026-10-21, which has no sampling parameters; in this version, the models that still sample take
temperature. Anthropic promises to keep the inputs and outputs of a version.
"""


class AnthropicBackend:
    """Chat. ``base_url`` is the host without ``/v1``, as in Anthropic's own SDK.

    ``now`` returns Unix seconds. ``upstream.headers`` may name beta features or another version.
    """

    def __init__(self, client: HttpClient, *, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._now = now

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        return translate(request, upstream).dropped if isinstance(request, ChatRequest) else ()

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncIterator[Json]:
        """The chunks of the answer; see :class:`backends.base.Chat`."""
        body = translate(request, upstream).body
        answer = AnthropicStream(upstream, created=int(self._now()), answer_by_tool=answers_by_tool(body))
        headers = {"anthropic-version": API_VERSION, **upstream.headers}
        async with self._client.open(
            upstream,
            "POST",
            "/v1/messages",
            json=body,
            headers=headers,
            key_header="x-api-key",
            errors=read_anthropic_error,
        ) as response:
            try:
                async for event in response.events():
                    for chunk in answer.feed(event.json()):
                        yield chunk
            except UpstreamError:
                if not answer.finished:  # an error after its end does not change the answer
                    raise
        answer.close()
