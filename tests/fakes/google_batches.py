"""Gemini's Batch API, beside :class:`tests.fakes.google.FakeGoogle`: a batch ends when the test lets it.

Source: Google's API reference (Batch API).
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from catalog.types import Json
from tests.fakes.google import FakeGoogle, Wrong, check
from tests.fakes.server import Call, Route


class FakeGeminiBatches(FakeGoogle):
    """``batches`` are the operations by id. ``keyless`` leaves the keys out of the results.

    ``failing`` maps the ends of keys to gRPC codes.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.batches: dict[str, Json] = {}
        self.asked: dict[str, list[Json]] = {}
        self.finishing = True
        self.made_at = "2033-05-18T03:33:20.123456789Z"
        self.keyless = False
        self.failing: dict[str, int] = {}

    def routes(self) -> list[Route]:
        return [
            ("GET", "/v1beta/batches", self.list_batches),
            ("GET", "/v1beta/batches/{id}", self.show_batch),
            ("POST", "/v1beta/batches/{id}:cancel", self.cancel_batch),
            *super().routes(),
        ]

    async def models(self, request: web.Request, call: Call) -> web.StreamResponse:
        model, _, method = request.match_info["call"].partition(":")
        if method != "batchGenerateContent" or call.headers.get("x-goog-api-key") != self.key:
            return await super().models(request, call)
        rows = call.body["batch"]["input_config"]["requests"]["requests"]
        try:
            for row in rows:
                check(row["request"], signed=False)
        except Wrong as wrong:
            return self.refused(call, 400, str(wrong))
        name = f"b{len(self.batches) + 1}"
        self.asked[name] = rows
        self.batches[name] = {
            "name": f"batches/{name}",
            "metadata": {
                "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
                "model": f"models/{model}",
                "displayName": call.body["batch"]["display_name"],
                "createTime": self.made_at,
                "state": "BATCH_STATE_PENDING",
            },
        }
        return await self.document(request, call, self.batches[name])

    async def list_batches(self, request: web.Request, call: Call) -> web.StreamResponse:
        return await self.document(request, call, {"operations": list(self.batches.values())[::-1]})

    async def show_batch(self, request: web.Request, call: Call) -> web.StreamResponse:
        batch = self.batches[request.match_info["id"]]
        if self.finishing and not batch.get("done"):
            cancelled = batch["metadata"]["state"].endswith("CANCELLED")
            rows = [] if cancelled else [self.result(row) for row in self.asked[request.match_info["id"]]]
            batch |= {"done": True, "response": {"inlinedResponses": {"inlinedResponses": rows}}}
            if not cancelled:
                batch["metadata"]["state"] = "BATCH_STATE_SUCCEEDED"
        return await self.document(request, call, batch)

    async def cancel_batch(self, request: web.Request, call: Call) -> web.StreamResponse:
        self.batches[request.match_info["id"]]["metadata"]["state"] = "BATCH_STATE_CANCELLED"
        return await self.document(request, call, {})

    def result(self, row: Json) -> Json:
        key = row["metadata"]["key"]
        code = self.failing.get(key.rpartition("-")[2])
        if code is not None:
            told: Json = {"error": {"code": code, "message": "This request was refused."}}
        else:
            events = list(self.answer(row["request"], "fake-gemini", refuse=False))
            said = [each for event in events for each in event.get("candidates", ()) if "content" in each]
            parts = [part for each in said for part in each["content"].get("parts", ())]
            whole = events[-1]
            whole["candidates"][0]["content"] = {"role": "model", "parts": parts}
            told = {"response": whole}
        return told if self.keyless else {**told, "metadata": {"key": key}}
