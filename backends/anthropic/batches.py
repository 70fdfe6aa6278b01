"""Anthropic's Message Batches API: requests in one body, results as JSON lines.

Source: Anthropic's API reference (Message Batches). A batch has no metadata, so one whose id was lost is known by
the custom ids in its results.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import orjson

from backends.anthropic.backend import BETA, AnthropicBackend, request_headers
from backends.anthropic.errors import read_anthropic_error
from backends.base import Upstream
from backends.deferred.api import (
    CLOCK_SKEW,
    MOST_BYTES,
    BatchCall,
    BatchLine,
    BatchResult,
    BatchState,
    Begun,
    Recorded,
    json_lines,
)
from backends.http import HttpClient
from backends.translation import reading
from catalog.types import Json

PATH = "/v1/messages/batches"
PAGE = 100
MAX_PAGES = 50
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicBatches:
    """See :class:`backends.deferred.api.Batches`."""

    most_bytes = MOST_BYTES

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def begin(self, upstream: Upstream, name: str, call: BatchCall, lines: Sequence[BatchLine]) -> str:
        del name
        body = {"requests": [{"custom_id": line.custom_id, "params": line.body} for line in lines]}
        betas = {BETA: call.headers[BETA]} if BETA in call.headers else {}
        made = await self._http.post_json(upstream, PATH, body, **_options(upstream, betas))
        with reading("Anthropic"):
            return str(made["id"])

    async def find(self, upstream: Upstream, name: str, since: float, count: int) -> Begun:
        certain = True
        query: dict[str, str] = {"limit": str(PAGE)}
        for _ in range(MAX_PAGES):
            page = await self._http.get_json(upstream, PATH, query=query, **_options(upstream))
            with reading("Anthropic"):
                past = False
                for batch in page["data"]:
                    if datetime.fromisoformat(batch["created_at"]).timestamp() < since - CLOCK_SKEW:
                        past = True
                        continue
                    if sum(batch["request_counts"].values()) != count:
                        continue
                    if batch["processing_status"] != "ended":
                        certain = False
                    elif await self._is_named(upstream, batch, name):
                        return Begun(str(batch["id"]))
                if past or not page.get("has_more"):
                    break
                query = {"limit": str(PAGE), "after_id": str(page["last_id"])}
        return Begun(None, certain)

    async def _is_named(self, upstream: Upstream, batch: Any, name: str) -> bool:
        state = _state(batch)
        if not state.results:  # archived: it is older than any that is looked for
            return False
        async for result in self.results(upstream, state, ()):
            return result.custom_id.startswith(f"{name}-")
        return False

    async def look(self, upstream: Upstream, batch: str) -> BatchState:
        told = await self._http.get_json(upstream, f"{PATH}/{quote(batch, safe='')}", **_options(upstream))
        with reading("Anthropic"):
            return _state(told)

    async def results(
        self, upstream: Upstream, state: BatchState, custom_ids: Sequence[str]
    ) -> AsyncIterator[BatchResult]:
        del custom_ids
        for batch in state.results:
            path = f"{PATH}/{quote(batch, safe='')}/results"
            async with self._http.open(upstream, "GET", path, **_options(upstream)) as response:
                async for line in json_lines(response, upstream):
                    with reading("Anthropic"):
                        result = _result(orjson.loads(line))
                    yield result

    async def tidy(self, upstream: Upstream, state: BatchState) -> None:
        """Nothing: the requests came in the body, and the provider keeps them with the results."""

    async def cancel(self, upstream: Upstream, batch: str) -> None:
        await self._http.post_json(upstream, f"{PATH}/{quote(batch, safe='')}/cancel", {}, **_options(upstream))


def _options(upstream: Upstream, betas: Mapping[str, str] | None = None) -> dict[str, Any]:
    headers = request_headers(upstream, None) | dict(betas or {})
    return {"headers": headers, "key_header": AnthropicBackend.key_header, "errors": read_anthropic_error}


def _state(told: Any) -> BatchState:
    """The state of a batch. Results are asked for by its id: no answer names an address that a key is sent to."""
    ended = told["processing_status"] == "ended"
    return BatchState(ended, None, (str(told["id"]),) if ended and told.get("results_url") else ())


def _result(told: Any) -> BatchResult:
    result, name = told["result"], str(told["custom_id"])
    if result["type"] == "succeeded":
        events = b"".join(
            b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event))
            for event in events_of(result["message"])
        )
        return BatchResult(name, Recorded(200, "text/event-stream", events))
    if result["type"] == "errored":
        error = result["error"]
        status = _STATUS.get(error["error"]["type"], 500)
        return BatchResult(name, Recorded(status, "application/json", orjson.dumps(error)))
    return BatchResult(name, None)


def events_of(message: Json) -> Iterator[Json]:
    """The events of the stream that a message would have been."""
    usage = message["usage"]
    begun = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": {**begun, "usage": {**usage, "output_tokens": 0}}}
    for index, block in enumerate(message["content"]):
        blank, deltas = _taken_apart(block)
        yield {"type": "content_block_start", "index": index, "content_block": blank}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ends = ("stop_reason", "stop_sequence", "stop_details", "container", "context_management")
    delta = {name: message[name] for name in ends if name in message}
    yield {"type": "message_delta", "delta": delta, "usage": usage}
    yield {"type": "message_stop"}


def _taken_apart(block: Json) -> tuple[Json, list[Json]]:
    """A block as it begins, and the deltas that make it whole. Blocks of other types come whole."""
    match block["type"]:
        case "text":
            cited = [{"type": "citations_delta", "citation": each} for each in block.get("citations") or ()]
            blank = {**block, "text": ""} | ({"citations": []} if cited else {})
            return blank, [{"type": "text_delta", "text": block["text"]}, *cited]
        case "thinking":
            thought = {"type": "thinking_delta", "thinking": block["thinking"]}
            signed = {"type": "signature_delta", "signature": block.get("signature", "")}
            return {**block, "thinking": "", "signature": ""}, [thought, signed]
        case "tool_use" | "server_tool_use" | "mcp_tool_use":
            text = orjson.dumps(block["input"]).decode()
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": text}]
        case _:
            return block, []
