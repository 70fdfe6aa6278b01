"""Stored chat completions: those that were asked for with ``store: true``, with their messages."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog

from backends.streams.assemble import ChatAssembler
from backends.wire.chat import ChatRequest
from catalog.errors import RoundhouseError
from catalog.types import Json
from server.answers.relay import Encoder
from server.callers import Caller
from server.storage.storage import Storage

CHAT = "chat_completion"
"""The kind of their records. A body has the ``completion``, the model's name as ``asked``, the ``messages``."""
_TOLD = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "tools", "tool_choice"),
    *("response_format", "service_tier"),
)
"""Parameters of a request that its stored completion has too."""


def without_store(body: ChatRequest) -> ChatRequest:
    """A copy that is not stored by the model's server either."""
    copy = body.model_copy(update={"store": None})
    copy.__pydantic_fields_set__.discard("store")
    return copy


class ChatKeeper:
    """Keeps one chat's completion, under the id that its caller is told: ``chatcmpl-`` and the trace."""

    def __init__(self, storage: Storage, caller: Caller, trace: str, body: ChatRequest) -> None:
        self.id = f"chatcmpl-{trace}"
        self._storage = storage
        self._caller = caller
        self._body = body

    async def keep(self, completion: Json) -> bool:
        """Store a completion; whether it is stored. One that is not has ``store: false``, and is logged."""
        wire = self._body.to_wire()
        told = {name: wire[name] for name in _TOLD if wire.get(name) is not None}
        kept = {**told, **completion, "id": self.id, "metadata": wire.get("metadata") or {}, "store": True}
        body = {"completion": kept, "asked": self._body.model, "messages": wire["messages"]}
        record = self._storage.new(CHAT, self.id, body, self._caller)
        completion["id"] = self.id
        try:
            await self._storage.keep(record)
        except RoundhouseError as error:
            completion["store"] = False
            structlog.get_logger("server.history").warning(
                "chat.not_stored", completion=self.id, error=error.message
            )
            return False
        return True


class KeptChunks:
    """Encodes the chunks of a chat that is kept once it is whole; the end waits until it is stored.

    The chunks from the end of the last choice on are held until then: that end says ``store: false`` if it is not.
    """

    def __init__(self, encoder: Encoder[Json], keeper: ChatKeeper) -> None:
        self._encoder = encoder
        self._keeper = keeper
        self._whole = ChatAssembler()
        self._held: list[Json] = []

    def encode(self, item: Json) -> bytes:
        item["id"] = self._keeper.id
        self._whole.add({**item})
        choices = item.get("choices") or ()
        if choices and not any(choice.get("finish_reason") for choice in choices):
            return self._release() + self._encoder.encode(item)
        released = b"" if not choices else self._release()
        self._held.append(item)
        return released

    def _release(self) -> bytes:
        held, self._held = self._held, []
        return b"".join([self._encoder.encode(item) for item in held])

    def finish(self) -> Awaitable[bytes]:
        return self._finish()

    async def _finish(self) -> bytes:
        ends = [item for item in self._held if item.get("choices")]
        if ends and not await self._keeper.keep(self._whole.result()):
            ends[-1]["store"] = False
        last = self._release()
        end = self._encoder.finish()
        end = end if isinstance(end, bytes) else await end
        if not ends:
            await self._keeper.keep(self._whole.result())
        return last + end

    def fail(self, error: RoundhouseError) -> bytes | None:
        last, end = self._release(), self._encoder.fail(error)
        return last if end is None else last + end
