"""Background responses: records that the runner works on after the request that made them.

The translation is imported by the first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from backends.streams.native import NativeChunk
from backends.wire.responses import ResponsesRequest
from catalog.errors import RateLimited, RoundhouseError, Unavailable
from catalog.types import Json
from routing.state.records import Record
from server.batches.asking import caller_of_owner
from server.callers import Origin
from server.history.context import RESPONSE, items_of
from server.history.events import EventLog, next_number, record_of
from server.runtime import Runtime
from server.storage.slots import Slot

if TYPE_CHECKING:
    from server.history.turns import Turn

QUEUED, RUNNING = "queued", "in_progress"
_BEGUN = ("response.created", "response.queued")


class BackgroundResponses:
    """Makes queued responses; see :class:`server.storage.runner.BackgroundWork`.

    A response that was being made when its process died has failed: its upstream may have done the work already,
    and it must not be done twice.
    """

    kind = RESPONSE
    unfinished = (QUEUED, RUNNING)
    keeps_slot = True

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def at_once(self) -> int:
        return self._runtime.storage.settings.background

    async def run(self, record: Record, slot: Slot) -> None:
        """Make a response, store its events as they come, and its end.

        Raises Unavailable for one that was begun before, and what opening and reading an answer raise.
        """
        from server.history.turns import turn_of

        del slot
        if record.status == RUNNING:
            raise Unavailable("The server stopped while it made this response. Ask again.")
        storage, records = self._runtime.storage, self._runtime.storage.records
        response = {**record.body["response"], "status": RUNNING}
        begun = await records.replace(record.changed(status=RUNNING, response=response))
        if begun is None:
            return  # it was cancelled or deleted meanwhile
        caller = caller_of_owner(self._runtime, record.owner)
        body = ResponsesRequest.model_validate(record.body["request"])
        turn = await turn_of(self._runtime, body, caller, record.id.removeprefix("resp_"))
        origin = Origin(caller, turn.name, record.body["headers"])
        job = await turn.job(origin)
        number = await next_number(storage, record)
        stream = turn.translation()
        async with EventLog(storage, begun) as log, turn.opens(origin)(self._runtime, job, caller) as answer:

            def tell(event: Json) -> None:
                nonlocal number
                if event["type"] in _BEGUN:
                    return
                event = {**event, "sequence_number": number}
                if "response" in event:
                    event["response"] = background(event["response"], record.body["response"])
                log.add(event)
                number += 1

            started = False
            async for chunk in answer:
                if not started and not isinstance(chunk, NativeChunk):
                    for event in stream.start():
                        tell(event)
                started = True
                for event in stream.feed(chunk):
                    tell(event)
            for event in stream.finish():
                if "response" in event:
                    turn.name_items(event["response"])
                tell(event)
        await self._store(begun, turn, background(stream.response(), record.body["response"]))

    async def _store(self, record: Record, turn: Turn, response: Json) -> None:
        """Store the end of a response, unless it was cancelled meanwhile."""
        storage = self._runtime.storage
        if await storage.records.replace(_finished(record, response)) is None:
            return
        conversation = turn.context.conversation
        if conversation is not None:
            await storage.keep(*items_of(storage, conversation, turn.new_items(response), turn.caller))

    async def end(self, record: Record, error: BaseException | None) -> None:
        """Store that a response was cancelled or has failed, and the event that says so."""
        status = "cancelled" if error is None else "failed"
        told = None if error is None else _error(error)
        response = {**record.body["response"], "status": status, "error": told}
        number = await next_number(self._runtime.storage, record)
        event = {"type": f"response.{status}", "response": response, "sequence_number": number}
        records = self._runtime.storage.records
        await records.add([record_of(record, [event])])
        await records.replace(_finished(record, response))


def background(response: Json, queued: Json) -> Json:
    """A response with what its caller was told of it when it was queued."""
    names = ("id", "created_at", "background", "store", "previous_response_id", "conversation")
    return {**response, **{name: queued[name] for name in names if name in queued}}


def queued_record(turn: Turn, headers: Mapping[str, str]) -> tuple[Record, list[Json]]:
    """The record of a new background response and its first events.

    ``headers`` are the caller's; those that state an intent are kept.
    """
    stream = turn.translation()
    stream.status = QUEUED
    stream.state |= {"background": True}
    response = stream.response()
    intent = {name: value for name, value in headers.items() if name.lower().startswith("x-roundhouse-")}
    record = replace(turn.record(response, request=turn.body.to_wire(), headers=intent), status=QUEUED)
    events = [
        {"type": kind, "response": response, "sequence_number": number} for number, kind in enumerate(_BEGUN)
    ]
    return record, events


def _finished(record: Record, response: Json) -> Record:
    """The record without what only the work on it needs."""
    body = {name: value for name, value in record.body.items() if name not in ("request", "headers")}
    return replace(record, body={**body, "response": response}, status="")


def _error(error: BaseException) -> Json:
    """The error of a failed response; OpenAI's SDK knows these codes only."""
    code = "rate_limit_exceeded" if isinstance(error, RateLimited) else "server_error"
    message = error.message if isinstance(error, RoundhouseError) else "Something went wrong in the server."
    return {"code": code, "message": message}
