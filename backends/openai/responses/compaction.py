"""OpenAI's own compaction of a conversation: the caller's request, sent to ``/responses/compact``.

The items of the answer are sealed by OpenAI, and stamped so that they go back to their endpoint alone.
Source: OpenAI's API reference (Compact a response).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import ClassVar
from urllib.parse import urlsplit

from backends.base import Upstream
from backends.http import HttpClient
from backends.openai.responses.native import native_request, stamp
from backends.streams.native import NativeChunk
from backends.translation import TranslatedRequest, reading
from backends.wire.chat import Original
from catalog.errors import UpstreamProtocolError
from catalog.types import Json

WIRE = "compaction"
"""The language of a request to compact, as :class:`backends.wire.chat.Original` names it."""
PATH = "/responses/compact"
OBJECT = "response.compaction"
_TAKEN = frozenset({"model", "input", "instructions", "previous_response_id", "prompt_cache_key"})
_NO_LOSS = frozenset({"stream", "store", "truncation", "metadata", "include"})


class Compacting:
    """The servers that have this path: OpenAI's own, of every region."""

    hosts: ClassVar[tuple[str, ...]] = ("api.openai.com",)

    @classmethod
    def at(cls, upstream: Upstream) -> bool:
        host = urlsplit(upstream.base_url).hostname or ""
        return any(host == each or host.endswith(f".{each}") for each in cls.hosts)


def compact_request(original: Original, upstream: Upstream) -> TranslatedRequest:
    """The body of a request to compact. Raises as :func:`native_request`."""
    made = native_request(original, upstream)
    body = {name: value for name, value in made.body.items() if name in _TAKEN}
    lost = [name for name, value in made.body.items() if name not in _TAKEN | _NO_LOSS and value is not None]
    return TranslatedRequest(body, (*made.dropped, *lost))


async def compact(
    http: HttpClient, upstream: Upstream, made: TranslatedRequest, *, path: str, key_header: str
) -> AsyncGenerator[Json]:
    """One chunk, whose event ends a response that is the compaction."""
    answer = await http.post_json(upstream, path, made.body, key_header=key_header)
    with reading(f"The endpoint '{upstream.endpoint}'"):
        if not isinstance(answer.get("output"), list):
            raise UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' sent a compaction without an output.")
        for item in answer["output"]:
            stamp(item, upstream)
        usage = answer.get("usage") or {}
        tokens = {
            "prompt_tokens": usage.get("input_tokens", 0),
            "completion_tokens": usage.get("output_tokens", 0),
            "total_tokens": usage.get("total_tokens", 0),
            "prompt_tokens_details": usage.get("input_tokens_details") or {},
            "completion_tokens_details": usage.get("output_tokens_details") or {},
        }
        chunk: Json = {
            "id": str(answer["id"]),
            "object": "chat.completion.chunk",
            "created": int(answer.get("created_at") or 0),
            "model": upstream.model,
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
            "usage": tokens,
        }
    yield NativeChunk(chunk, {"type": "response.completed", "response": {**answer, "object": OBJECT}})
