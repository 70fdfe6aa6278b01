"""Anthropic's message batches, for :class:`tests.fakes.anthropic.FakeAnthropic`."""

from __future__ import annotations

import itertools
import re
from typing import Any

import orjson
from aiohttp import web

from catalog.types import Json
from tests.fakes.server import Call, FakeServer, Route

PATH = "/v1/messages/batches"
CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class MessageBatchRoutes(FakeServer):
    """``batches`` are the batches by id. A look at one ends it while the fake is ``finishing``.

    ``failing`` maps custom ids' ends to a type of error; ``unanswered`` are those that get no answer.
    """

    finishing = True
    made_at = "2033-05-18T03:33:20Z"
    """The time of batches' making."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.batches: dict[str, Json] = {}
        self.failing: dict[str, str] = {}
        self.unanswered: set[str] = set()
        self._numbers = itertools.count(1)

    def batch_routes(self) -> list[Route]:
        return [
            ("POST", PATH, self.make_batch),
            ("GET", PATH, self.list_batches),
            ("GET", PATH + "/{id}", self.show_batch),
            ("GET", PATH + "/{id}/results", self.batch_results),
            ("POST", PATH + "/{id}/cancel", self.cancel_batch),
        ]

    async def make_batch(self, request: web.Request, call: Call) -> web.StreamResponse:
        for each in call.body["requests"]:
            if CUSTOM_ID.fullmatch(each["custom_id"]) is None:
                return self.refused(call, 400, "requests.0.custom_id: String should match the pattern")
            assert "stream" not in each["params"]
        number = next(self._numbers)
        name = f"msgbatch_fake{number}"
        self.batches[name] = {"id": name, "requests": call.body["requests"], "status": "in_progress"}
        return await self.document(request, call, self.shown(name))

    async def list_batches(self, request: web.Request, call: Call) -> web.StreamResponse:
        rows = [self.shown(name) for name in reversed(self.batches)]
        return await self.document(request, call, {"data": rows, "has_more": False, "last_id": None})

    async def show_batch(self, request: web.Request, call: Call) -> web.StreamResponse:
        name = request.match_info["id"]
        if name not in self.batches:
            return self.refused(call, 404, "There is no such batch.")
        if self.finishing:
            self.batches[name]["status"] = "ended"
        return await self.document(request, call, self.shown(name))

    async def cancel_batch(self, request: web.Request, call: Call) -> web.StreamResponse:
        self.batches[request.match_info["id"]]["status"] = "canceling"
        return await self.document(request, call, self.shown(request.match_info["id"]))

    async def batch_results(self, request: web.Request, call: Call) -> web.StreamResponse:
        rows = []
        for each in reversed(self.batches[request.match_info["id"]]["requests"]):
            number = each["custom_id"].rpartition("-")[2]
            result: Json
            if number in self.unanswered:
                result = {"type": "expired"}
            elif number in self.failing:
                error = self.error(400, "This line was refused.", kind=self.failing[number])
                result = {"type": "errored", "error": error}
            else:
                result = {"type": "succeeded", "message": self.batch_answer(each["params"])}
            rows.append(orjson.dumps({"custom_id": each["custom_id"], "result": result}) + b"\n")
        return await self.stream(request, call, rows, content_type="application/x-jsonl")

    def shown(self, name: str) -> Json:
        batch = self.batches[name]
        ended = batch["status"] == "ended"
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        counts["succeeded" if ended else "processing"] = len(batch["requests"])
        return {
            "id": name,
            "type": "message_batch",
            "processing_status": batch["status"],
            "request_counts": counts,
            "created_at": self.made_at,
            "results_url": f"{self.origin}{PATH}/{name}/results" if ended else None,
        }

    def batch_answer(self, body: Json) -> Json:
        """The plain answer to a line."""
        raise NotImplementedError
