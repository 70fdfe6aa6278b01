"""A server's answers for a chat, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from catalog.types import Json
from server.commands.client import ServerClient
from server.commands.support.statuses import ServerAnswered

CARDS: dict[str, Json] = {
    "auto": {"id": "auto", "router": True},
    "tiny": {"id": "tiny", "capabilities": ["chat"], "available": True},
    "vectors": {"id": "vectors", "capabilities": ["embed"], "available": True},
    "far": {
        "id": "far",
        "capabilities": ["chat"],
        "available": False,
        "downloaded": False,
        "unavailable_reason": "far is not pulled. Pull it: roundhouse pull far",
    },
}
HEADERS = {
    "x-roundhouse-model": "tiny",
    "x-roundhouse-trace": "tr_1",
    "x-roundhouse-reason": "expected quality 0.5",
}


class FakeServerClient(ServerClient):
    """Answers each chat with the next of ``replies``: pieces of text, or an error event as a dictionary.

    ``asked`` are the bodies, ``pulled`` the names. A piece that is a function is called when it is its turn.
    """

    def __init__(self, *replies: list[str | Json | Callable[[], str]], end: bool = True) -> None:
        self.replies = list(replies)
        self.asked: list[Json] = []
        self.pulled: list[str] = []
        self.end = end
        self.fails = self.here = False

    def get(self, path: str, **params: Any) -> Any:
        if path.startswith("/v1/traces/"):
            attempts = [{"cost": 0.0}, {"cost": 0.00125}]
            return {
                "status": "done",
                "answered_by": "tiny",
                "plan": {"reason": "the plan's"},
                "attempts": attempts,
            }
        if path == "/v1/models":
            return {"data": list(CARDS.values())}
        card = CARDS.get(path.removeprefix("/v1/models/"))
        if card is None:
            raise ServerAnswered("There is no such model. The nearest: tiny.", 404)
        return {**card, "available": True, "downloaded": True} if card["id"] == "far" and self.here else card

    @contextmanager
    def stream(self, method: str, path: str, **arguments: Any) -> Iterator[httpx.Response]:
        if path == "/v1/models/pulls":
            self.pulled.append(arguments["json"]["model"])
            begun: Json = {
                "id": "pull_1",
                "status": "in_progress",
                "stage": "downloading",
                "error": None,
                "models": [],
            }
            progress = {"completed_bytes": 4, "total_bytes": 9}
            failed = {**begun, "status": "failed", "error": {"code": "pull_failed", "message": "No room."}}
            done = {**begun, "status": "completed", "stage": "done", "models": ["far"]}
            last = failed if self.fails else done
            self.here = not self.fails
            told = b"".join(_event({**each, **progress}) for each in (begun, last))
            yield httpx.Response(200, content=told + b"data: [DONE]\n\n")
            return
        self.asked.append(arguments["json"])
        yield httpx.Response(200, headers=HEADERS, content=self._events(self.replies.pop(0)))

    def _events(self, reply: list[str | Json | Callable[[], str]]) -> Iterator[bytes]:
        yield b": ping\n\n"
        for piece in reply:
            said = piece() if callable(piece) else piece
            if isinstance(said, dict):
                yield _event(said)
            else:
                data = _event({"choices": [{"delta": {"content": said}, "finish_reason": None}]})
                yield data[:7]  # an event comes in any pieces
                yield data[7:]
        timings = {"time_to_first_token": 0.5, "latency": 1.5}
        usage = {"completion_tokens": 11, "prompt_tokens": 7, "x-roundhouse": timings}
        yield _event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        yield _event({"choices": [], "usage": usage})
        if self.end:
            yield b"data: [DONE]\n\n"


def _event(data: Json) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"
