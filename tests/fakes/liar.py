"""A server that answers every request with one body, whatever it was asked."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from tests.fakes.openai import DONE, event
from tests.fakes.server import Call, FakeServer, Route


class FakeLiar(FakeServer):
    """``says`` sets the JSON of plain answers, ``streams`` the events of streamed ones."""

    def __init__(self) -> None:
        super().__init__()
        self.body = b"{}"
        self.kind = "application/json"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    def routes(self) -> list[Route]:
        return [("*", "/{path:.*}", self.answer)]

    def says(self, document: Any, *, kind: str = "application/json") -> None:
        self.body, self.kind = orjson.dumps(document), kind

    def streams(self, *documents: Any) -> None:
        self.body, self.kind = b"".join(event(document) for document in documents) + DONE, "text/event-stream"

    async def answer(self, request: web.Request, call: Call) -> web.StreamResponse:
        return web.Response(body=self.body, headers={"content-type": self.kind})
