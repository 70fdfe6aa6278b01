"""OpenAI's files and batches, for :class:`tests.fakes.openai.FakeOpenAI`: a batch ends when the test lets it."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
from aiohttp import web

from catalog.types import Json
from tests.fakes.server import Call, FakeServer, Route

ENDED = ("failed", "completed", "expired", "cancelled")


class BatchRoutes(FakeServer):
    """``batches`` are the batches by id, ``contents`` the files. A look at one that is ``finishing`` ends it.

    ``failing`` maps custom ids' ends to a status code; ``unanswered`` are those that get no answer.
    """

    prefix = "/v1"
    batch_prefix: str | None = None
    file_status = "processed"
    """The status of a file that was just uploaded; a look at it processes it."""
    finishing = True
    ends_as = "completed"
    made_at = 2e9
    """The time of batches' making, in Unix seconds."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.batches: dict[str, Json] = {}
        self.contents: dict[str, bytes] = {}
        self.deleted: dict[str, bytes] = {}
        self.failing: dict[str, int] = {}
        self.unanswered: set[str] = set()
        self._numbers = itertools.count(1)

    def batch_routes(self) -> list[Route]:
        prefix = self.prefix if self.batch_prefix is None else self.batch_prefix
        return [
            ("POST", f"{prefix}/files", self.upload),
            ("GET", prefix + "/files/{id}", self.show_file),
            ("GET", prefix + "/files/{id}/content", self.content),
            ("DELETE", prefix + "/files/{id}", self.delete_file),
            ("POST", f"{prefix}/batches", self.make_batch),
            ("GET", f"{prefix}/batches", self.list_batches),
            ("GET", prefix + "/batches/{id}", self.show_batch),
            ("POST", prefix + "/batches/{id}/cancel", self.cancel_batch),
        ]

    async def upload(self, request: web.Request, call: Call) -> web.StreamResponse:
        name = f"file-{next(self._numbers)}"
        self.contents[name] = call.files["file"]
        told = {"id": name, "object": "file", "purpose": call.body["purpose"], "status": self.file_status}
        return await self.document(request, call, told)

    async def show_file(self, request: web.Request, call: Call) -> web.StreamResponse:
        name = request.match_info["id"]
        return await self.document(request, call, {"id": name, "object": "file", "status": "processed"})

    async def delete_file(self, request: web.Request, call: Call) -> web.StreamResponse:
        name = request.match_info["id"]
        if name not in self.contents:
            return self.refused(call, 404, "No such file.")
        self.deleted[name] = self.contents.pop(name)
        return await self.document(request, call, {"id": name, "object": "file", "deleted": True})

    async def content(self, request: web.Request, call: Call) -> web.StreamResponse:
        data = self.contents[request.match_info["id"]]
        return await self.stream(request, call, [data], content_type="application/octet-stream")

    async def make_batch(self, request: web.Request, call: Call) -> web.StreamResponse:
        number = next(self._numbers)
        body = call.body
        for row in self.rows_of(body["input_file_id"]):
            assert row["url"] == body["endpoint"], "a line asks another endpoint than its batch"
            assert "stream" not in row["body"]
        name = f"batch_fake{number}"
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "completion_window": body["completion_window"],
            "metadata": body.get("metadata"),
            "status": "in_progress",
            "created_at": int(self.made_at),
        }
        return await self.document(request, call, self.batches[name])

    async def list_batches(self, request: web.Request, call: Call) -> web.StreamResponse:
        rows = list(self.batches.values())[::-1]
        return await self.document(request, call, {"object": "list", "data": rows, "has_more": False})

    async def show_batch(self, request: web.Request, call: Call) -> web.StreamResponse:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return self.refused(call, 404, "No batch found with this id.")
        if self.finishing and batch["status"] not in ENDED:
            self.end(batch, "cancelled" if batch["status"] == "cancelling" else self.ends_as)
        return await self.document(request, call, batch)

    async def cancel_batch(self, request: web.Request, call: Call) -> web.StreamResponse:
        batch = self.batches[request.match_info["id"]]
        batch["status"] = "cancelling"
        return await self.document(request, call, batch)

    def rows_of(self, file: str) -> list[Json]:
        return [orjson.loads(line) for line in (self.contents | self.deleted)[file].splitlines()]

    def end(self, batch: Json, status: str) -> None:
        """End a batch: lines are answered, fail, or have no answer."""
        batch["status"] = status
        if status == "failed":
            batch["errors"] = {
                "data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached."}]
            }
            return
        outputs, errors = [], []
        for row in self.rows_of(batch["input_file_id"]):
            name, told = row["custom_id"], {"id": "r", "custom_id": row["custom_id"], "error": None}
            number = name.rpartition("-")[2]
            if number in self.unanswered:
                errors.append(
                    {**told, "response": None, "error": {"code": "batch_expired", "message": "Expired."}}
                )
            elif number in self.failing:
                status_code = self.failing[number]
                body = self.error(status_code, "This line was refused.")
                errors.append({**told, "response": {"status_code": status_code, "request_id": "q", "body": body}})
            else:
                answer = self.batch_answer(row["url"], row["body"])
                outputs.append({**told, "response": {"status_code": 200, "request_id": "q", "body": answer}})
        for member, rows in (("output_file_id", outputs), ("error_file_id", errors)):
            if rows:
                name = f"file-{next(self._numbers)}"
                self.contents[name] = b"".join(orjson.dumps(row) + b"\n" for row in reversed(rows))
                batch[member] = name

    def batch_answer(self, endpoint: str, body: Json) -> Json:
        """The plain answer to a line."""
        raise NotImplementedError
