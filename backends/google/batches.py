"""Gemini's Batch API: chats as the requests of one body, results in the operation.

Source: Google's API reference (Batch API). Embeddings have a batch API of another kind, so they are asked as any.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import orjson

from backends.base import Upstream
from backends.deferred.api import CLOCK_SKEW, BatchCall, BatchLine, BatchResult, BatchState, Begun, Recorded
from backends.google.backend import GoogleBackend
from backends.google.errors import read_google_error
from backends.http import HttpClient
from backends.translation import reading
from catalog.errors import UnsupportedParameter
from catalog.types import Json

PAGE = 100
MAX_PAGES = 50
_MOST_RESULTS = 256 << 20
"""Bytes of an operation with all its results, which are held in memory."""
_CHAT = ":streamGenerateContent"
_OPTIONS: Any = {"key_header": GoogleBackend.key_header, "errors": read_google_error}
_STATUS = {3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 11: 400, 12: 501, 13: 500, 14: 503, 16: 401}
"""HTTP statuses by gRPC's codes (google.rpc.Code), which a request's error has."""


class GeminiBatches:
    """See :class:`backends.deferred.api.Batches`."""

    most_bytes = 16 << 20
    """Google takes 20 MB in one body."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def begin(self, upstream: Upstream, name: str, call: BatchCall, lines: Sequence[BatchLine]) -> str:
        if not call.path.endswith(_CHAT):
            raise UnsupportedParameter("Gemini's batches are of chats alone.")
        requests = [{"request": line.body, "metadata": {"key": line.custom_id}} for line in lines]
        batch = {"display_name": name, "input_config": {"requests": {"requests": requests}}}
        path = f"{call.path.removesuffix(_CHAT)}:batchGenerateContent"
        made = await self._http.post_json(upstream, path, {"batch": batch}, **_OPTIONS)
        with reading("Google"):
            return _id(made["name"])

    async def find(self, upstream: Upstream, name: str, since: float, count: int) -> Begun:
        del count
        query = {"pageSize": str(PAGE)}
        for _ in range(MAX_PAGES):
            page = await self._http.get_json(upstream, "/batches", query=query, **_OPTIONS)
            with reading("Google"):
                past = False
                for operation in page.get("operations") or ():
                    told = operation.get("metadata") or {}
                    if told.get("displayName") == name:
                        return Begun(_id(operation["name"]))
                    made = datetime.fromisoformat(told["createTime"]).timestamp()
                    past = past or made < since - CLOCK_SKEW
                token = page.get("nextPageToken")
            if past or not token:
                break
            query = {"pageSize": str(PAGE), "pageToken": str(token)}
        return Begun(None)

    async def look(self, upstream: Upstream, batch: str) -> BatchState:
        return _state(await self._read(upstream, batch), batch)

    async def results(
        self, upstream: Upstream, state: BatchState, custom_ids: Sequence[str]
    ) -> AsyncIterator[BatchResult]:
        """The results. They are in the order of the requests, so one without its key is known by its place."""
        for batch in state.results:
            told = await self._read(upstream, batch)
            with reading("Google"):
                rows = _responses(told)
                ordered = len(rows) == len(custom_ids)
                for place, row in enumerate(rows):
                    key = (row.get("metadata") or {}).get("key") or (custom_ids[place] if ordered else "")
                    result = BatchResult(str(key), _recorded(row))
                    yield result

    async def tidy(self, upstream: Upstream, state: BatchState) -> None:
        """Nothing: the requests came in the body, and the provider keeps them with the results."""

    async def cancel(self, upstream: Upstream, batch: str) -> None:
        await self._http.post_json(upstream, f"/batches/{batch}:cancel", {}, **_OPTIONS)

    async def _read(self, upstream: Upstream, batch: str) -> Any:
        async with self._http.open(upstream, "GET", f"/batches/{batch}", **_OPTIONS) as response:
            return orjson.loads(b"".join([piece async for piece in response.iter_bytes(_MOST_RESULTS)]))


def _id(name: Any) -> str:
    """The id in the name of an operation, ``batches/ID``."""
    kind, _, found = str(name).partition("/")
    if kind != "batches" or not found.replace("-", "").replace("_", "").isalnum():
        raise ValueError("The name of a batch is of another form.")
    return found


def _state(told: Any, batch: str) -> BatchState:
    with reading("Google"):
        status = str((told.get("metadata") or {}).get("state") or "").rpartition("_")[2]
        failed = status == "FAILED" and not _responses(told)
        ended = bool(told.get("done")) or status in ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
        why = str((told.get("error") or {}).get("message") or "It failed without a reason.") if failed else None
        return BatchState(ended, why, (batch,) if ended and _responses(told) else ())


def _responses(told: Any) -> list[Json]:
    """The results in an operation, with what surrounds them in one form of the answer or the other."""
    output = told.get("response") or (told.get("metadata") or {}).get("output") or {}
    rows = output.get("inlinedResponses") or ()
    found = rows.get("inlinedResponses") or () if isinstance(rows, dict) else rows
    return list(found)


def _recorded(row: Json) -> Recorded | None:
    """The answer of one event of a stream, or the error that the call would have had."""
    if isinstance(row.get("response"), dict):
        return Recorded(200, "text/event-stream", b"data: %s\n\n" % orjson.dumps(row["response"]))
    error = row.get("error")
    if not isinstance(error, dict) or error.get("code") == 1:  # cancelled
        return None
    status = _STATUS.get(error.get("code") or 0, 500)
    return Recorded(status, "application/json", orjson.dumps({"error": {**error, "code": status}}))
