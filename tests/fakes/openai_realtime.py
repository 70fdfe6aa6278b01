"""OpenAI with its realtime API: a WebSocket that answers each response.create with words and their sound."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from catalog.types import Json
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Call, Route

USAGE: Json = {
    "total_tokens": 300,
    "input_tokens": 200,
    "output_tokens": 100,
    "input_token_details": {"text_tokens": 50, "audio_tokens": 150, "cached_tokens": 0},
    "output_token_details": {"text_tokens": 20, "audio_tokens": 80},
}


class FakeRealtime(FakeOpenAI):
    """``received`` are the events of clients, ``queries`` their queries.

    ``held`` keeps a response open until it is set; ``dies`` breaks the connection at the next event, and
    ``refuses`` answers the session with an error event. ``answers_turns``: a commit is answered by itself, as a
    turn that the provider finds. ``too_late``: a response ends before it can be cancelled. ``busy`` refuses
    responses. ``sounds`` are the deltas of 50 ms in an answer.
    """

    def __init__(self, *, key: str | None = None) -> None:
        super().__init__(key=key)
        self.models.append("gpt-realtime")
        self.received: list[Json] = []
        self.queries: list[dict[str, str]] = []
        self.held: asyncio.Event | None = None
        self.dies = False
        self.refuses = False
        self.answers_turns = False
        self.too_late = False
        self.busy = False
        self.sounds = 1
        self._number = 0

    def routes(self) -> list[Route]:
        return [("GET", f"{self.prefix}/realtime", self.converse), *super().routes()]

    async def converse(self, request: web.Request, call: Call) -> web.StreamResponse:
        if refusal := self.rejected(call):
            return refusal
        self.queries.append(dict(request.query))
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        if self.refuses:
            await self._send(socket, {"type": "error", "error": {"message": "No such model.", "type": "x"}})
            return socket
        session: Json = {"type": "realtime", "id": "sess_1", "model": request.query.get("model")}
        await self._send(socket, {"type": "session.created", "session": session})
        answering: asyncio.Task[None] | None = None
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                break
            event: Json = orjson.loads(message.data)
            self.received.append(event)
            if self.dies:
                self.hang_up(request)
            if event["type"] == "session.update":
                session = {**session, **event["session"]}
                await self._send(socket, {"type": "session.updated", "session": session})
            elif event["type"] == "response.create" and self.busy:
                error = {"type": "invalid_request_error", "message": "Busy.", "event_id": event.get("event_id")}
                await self._send(socket, {"type": "error", "error": error})
            elif event["type"] == "input_audio_buffer.commit" and self.answers_turns:
                await self._send(socket, {"type": "input_audio_buffer.committed", "item_id": "item_0"})
                answering = asyncio.create_task(self._answer(socket, {}))
            elif event["type"] == "response.create":
                answering = asyncio.create_task(self._answer(socket, event))
            elif event["type"] == "response.cancel" and answering is not None and not self.too_late:
                answering.cancel()
                await self._done(socket, f"resp_{self._number}", "cancelled")
            elif event["type"] == "conversation.item.create":
                await self._send(socket, {"type": "conversation.item.added", "item": event["item"]})
        call.cancelled.set()
        return socket

    async def _answer(self, socket: web.WebSocketResponse, event: Json) -> None:
        self._number += 1
        name = f"resp_{self._number}"
        most = (event.get("response") or {}).get("max_output_tokens", "inf")
        response = {"id": name, "object": "realtime.response", "status": "in_progress", "max_output_tokens": most}
        await self._send(socket, {"type": "response.created", "response": response})
        item: Json = {"id": f"item_{self._number}", "type": "message", "role": "assistant", "content": []}
        added = {"type": "response.output_item.added", "response_id": name, "output_index": 0, "item": item}
        await self._send(socket, added)
        await self._send(socket, {"type": "conversation.item.added", "item": item})
        sound = base64.b64encode(bytes(2400)).decode()
        for kind, delta in (("output_audio_transcript", "Hello"), *[("output_audio", sound)] * self.sounds):
            told = {"type": f"response.{kind}.delta", "response_id": name, "item_id": item["id"], "delta": delta}
            await self._send(socket, {**told, "output_index": 0, "content_index": 0})
        if self.held is not None:
            await self.held.wait()
        await self._done(socket, name, "completed")

    async def _done(self, socket: web.WebSocketResponse, name: str, status: str) -> None:
        response = {"id": name, "object": "realtime.response", "status": status, "output": [], "usage": USAGE}
        await self._send(socket, {"type": "response.done", "response": response})

    async def _send(self, socket: web.WebSocketResponse, event: Any) -> None:
        await socket.send_str(orjson.dumps({"event_id": "event_1", **event}).decode())
