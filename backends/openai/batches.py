"""OpenAI's Batch API: a file of lines is uploaded, and its results are files.

Source: OpenAI's API reference (Batch, Files). Groq, Mistral's gateway and others have the same API.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar
from urllib.parse import quote

import orjson

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
from backends.http import HttpClient, UpstreamResponse
from backends.translation import reading
from catalog.types import Json

PAGE = 100
MAX_PAGES = 50
NAMED = "roundhouse"
"""The member of a batch's metadata that has its name."""
_ENDED = frozenset({"failed", "completed", "expired", "cancelled"})


class OpenAIBatches:
    """See :class:`backends.deferred.api.Batches`. OpenAI keeps the results for 30 days."""

    most_bytes = MOST_BYTES
    key_header: ClassVar[str] = "authorization"

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    def path(self, upstream: Upstream, path: str) -> str:
        """The path of the API's ``/files`` and ``/batches`` at this provider."""
        del upstream
        return path

    def asked(self, upstream: Upstream, call: BatchCall) -> tuple[str, Json]:
        """The path that the lines ask, as the provider wants it told, and what every body has."""
        del upstream
        return f"/v1{call.path}", {}

    async def ready(self, upstream: Upstream, file: Any) -> None:
        """Return once a file that was uploaded can be used."""

    async def begin(self, upstream: Upstream, name: str, call: BatchCall, lines: Sequence[BatchLine]) -> str:
        url, common = self.asked(upstream, call)
        content = b"".join(
            orjson.dumps(
                {"custom_id": line.custom_id, "method": "POST", "url": url, "body": {**line.body, **common}}
            )
            + b"\n"
            for line in lines
        )
        upload = ("file", (f"{name}.jsonl", content, "application/jsonl"))
        async with self._open(upstream, "POST", "/files", data=[("purpose", "batch")], files=[upload]) as response:
            file = await response.json()
        await self.ready(upstream, file)
        with reading(f"The endpoint '{upstream.endpoint}'"):
            body = {
                "input_file_id": str(file["id"]),
                "endpoint": url,
                "completion_window": "24h",
                "metadata": {NAMED: name},
            }
        made = await self._json(upstream, "POST", "/batches", json=body)
        with reading(f"The endpoint '{upstream.endpoint}'"):
            return str(made["id"])

    async def find(self, upstream: Upstream, name: str, since: float, count: int) -> Begun:
        del count
        query = {"limit": str(PAGE)}
        for _ in range(MAX_PAGES):
            page = await self._json(upstream, "GET", "/batches", query=query)
            with reading(f"The endpoint '{upstream.endpoint}'"):
                for batch in page["data"]:
                    if (batch.get("metadata") or {}).get(NAMED) == name:
                        return Begun(str(batch["id"]))
                past = any(batch["created_at"] < since - CLOCK_SKEW for batch in page["data"])
                if past or not page.get("has_more") or not page["data"]:
                    break
                query = {"limit": str(PAGE), "after": str(page["data"][-1]["id"])}
        return Begun(None)

    async def look(self, upstream: Upstream, batch: str) -> BatchState:
        told = await self._json(upstream, "GET", f"/batches/{quote(batch, safe='')}")
        with reading(f"The endpoint '{upstream.endpoint}'"):
            status = str(told["status"])
            files = [told.get("output_file_id"), told.get("error_file_id")]
            return BatchState(
                status in _ENDED,
                _failure(told) if status == "failed" else None,
                tuple(str(file) for file in files if file) if status in _ENDED else (),
                tuple(str(file) for file in [told.get("input_file_id")] if file),
            )

    async def results(
        self, upstream: Upstream, state: BatchState, custom_ids: Sequence[str]
    ) -> AsyncIterator[BatchResult]:
        del custom_ids
        for file in state.results:
            async with self._open(upstream, "GET", f"/files/{quote(file, safe='')}/content") as response:
                async for line in json_lines(response, upstream):
                    with reading(f"The endpoint '{upstream.endpoint}'"):
                        result = _result(orjson.loads(line))
                    yield result

    async def cancel(self, upstream: Upstream, batch: str) -> None:
        await self._json(upstream, "POST", f"/batches/{quote(batch, safe='')}/cancel", json={})

    async def tidy(self, upstream: Upstream, state: BatchState) -> None:
        for file in state.inputs:
            await self._json(upstream, "DELETE", f"/files/{quote(file, safe='')}")

    def _open(
        self, upstream: Upstream, method: str, path: str, **more: Any
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        return self._http.open(upstream, method, self.path(upstream, path), key_header=self.key_header, **more)

    async def _json(self, upstream: Upstream, method: str, path: str, **more: Any) -> Any:
        async with self._open(upstream, method, path, **more) as response:
            return await response.json()


def _result(told: Any) -> BatchResult:
    response = told.get("response")
    if not isinstance(response, dict) or not response.get("status_code"):
        return BatchResult(str(told["custom_id"]), None)
    recorded = Recorded(int(response["status_code"]), "application/json", orjson.dumps(response.get("body")))
    return BatchResult(str(told["custom_id"]), recorded)


def _failure(told: Any) -> str:
    problems = (told.get("errors") or {}).get("data") or [{}]
    return str(problems[0].get("message") or "It failed without a reason.")
