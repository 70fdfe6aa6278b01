"""/v1/responses/{id}: stored responses. One belongs to the key that made it; to any other it does not exist."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Literal, NotRequired

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.answers import OpenAIResponse, ResponseEvent, ResponseItem
from backends.wire.common import AS_COUNT, WireModel
from catalog.errors import InvalidRequest, NotFound, RoundhouseError
from catalog.types import Json
from routing.state.records import Record
from server.answers.streams import event, stream_items
from server.answers.whole import json_response
from server.api.stored.pages import Included, ItemsQuery, page_of
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.history.context import RESPONSE, chain
from server.history.events import follow
from server.history.items import shown
from server.storage.runner import CANCELLING

router = APIRouter(tags=["responses"])
_PATIENCE = 5.0
"""Seconds for which a cancellation waits for the process at work."""


class ResponseQuery(WireModel):
    """``stream``: the events, those after ``starting_after`` alone; of a running response as they come."""

    include: Included | None = None
    stream: Literal["true", "false"] | None = None
    starting_after: Annotated[int, Field(ge=0), AS_COUNT] | None = None


class ResponseItems(TypedDict):
    object: Literal["list"]
    data: list[ResponseItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedResponse(TypedDict):
    id: str
    object: Literal["response"]
    deleted: NotRequired[bool]


class StoredEvents:
    """Encodes events that were numbered before."""

    def encode(self, item: Json) -> bytes:
        return event(item, item["type"])

    def finish(self) -> bytes:
        return b""

    def fail(self, error: RoundhouseError) -> bytes | None:
        return event(error.to_body())


def followed(request: Request, record: Record, *, after: int) -> Response:
    """The events of a background response after a number, as a stream that lasts until its end."""
    return stream_items(request, follow(runtime_of(request).storage, record, after), StoredEvents())


async def _found(request: Request, name: str) -> Record:
    record = await runtime_of(request).storage.records.get(RESPONSE, name, caller_of(request).id)
    if record is None:
        raise NotFound(f"Response with id {name[:100]!r} not found.", param="response_id")
    return record


@route(
    router,
    "GET",
    "/v1/responses/{response_id}",
    Contract(query=ResponseQuery, answers=OpenAIResponse, streams=ResponseEvent),
)
async def get_response(request: Request, response_id: str, query: ResponseQuery) -> Response:
    """Retrieve a response, or its events: of a running one as they come, in whatever process it is made.

    Those of a response that was streamed have the numbers that they had then; those of one that was not are the
    same each time. A response in the foreground ends with its connection: ask for it in the background to resume
    it in its midst.
    """
    record = await _found(request, response_id)
    response = record.body["response"]
    if query.stream != "true":
        if query.starting_after is not None:
            raise InvalidRequest("'starting_after' is only for 'stream=true'.", param="starting_after")
        return json_response({**response, "output": shown(response["output"], query.include)})
    after = -1 if query.starting_after is None else query.starting_after
    if response["background"]:
        return followed(request, record, after=after)
    events = await _streamed_again(request, record, resumed=query.starting_after is not None)

    async def rest() -> AsyncGenerator[Json]:
        for each in events:
            if each["sequence_number"] > after:
                yield each

    return stream_items(request, rest(), StoredEvents())


async def _streamed_again(request: Request, record: Record, *, resumed: bool) -> Iterator[Json]:
    """The events of a finished response: those of its stream, or made of it if it was never streamed.

    Raises InvalidRequest for a stream that is ``resumed`` and was too long to be recorded.
    """
    from server.history.recording import RECORDING, name_of, recorded_events
    from server.history.replay import replayed

    response = record.body["response"]
    recording = await runtime_of(request).storage.records.get(RECORDING, name_of(record.id), record.owner)
    events = replayed(response) if recording is None else recorded_events(recording, response)
    if events is None and resumed:
        raise InvalidRequest(
            "The events of this response were too many to be stored one by one; leave 'starting_after' out for "
            "the whole answer, or make such a response in the background.",
            param="starting_after",
        )
    return replayed(response) if events is None else events


@route(router, "DELETE", "/v1/responses/{response_id}", Contract(answers=DeletedResponse))
async def delete_response(request: Request, response_id: str) -> Response:
    """Delete a response; one that is being made is stopped. Those that go on from it cannot go on any more."""
    record = await _found(request, response_id)
    if record.status:
        await _cancelled(request, record)
    await runtime_of(request).storage.records.delete(RESPONSE, response_id, caller_of(request).id)
    return json_response({"id": response_id, "object": "response", "deleted": True})


@route(
    router,
    "POST",
    "/v1/responses/{response_id}/cancel",
    Contract(answers=OpenAIResponse, raises=(InvalidRequest,)),
)
async def cancel_response(request: Request, response_id: str) -> Response:
    """Cancel a background response; one that has ended stays as it is."""
    record = await _found(request, response_id)
    if not record.body["response"]["background"]:
        raise InvalidRequest("Only a background response can be cancelled.", param="response_id")
    if record.status:
        record = await _cancelled(request, record)
    return json_response(record.body["response"])


async def _cancelled(request: Request, record: Record) -> Record:
    """The record of a background response once it has ended, or as it is after some seconds."""
    runtime = runtime_of(request)
    storage, runner = runtime.storage, runtime.runner
    assert runner is not None
    marked = await storage.change(
        RESPONSE,
        record.id,
        caller_of(request),
        lambda current: current.changed(status=CANCELLING) if current.status else current,
    )
    await runner.cancel(marked)
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while True:
        current = await _found(request, record.id)
        if not current.status or asyncio.get_running_loop().time() > deadline:
            return current
        await asyncio.sleep(0.05)


@route(
    router,
    "GET",
    "/v1/responses/{response_id}/input_items",
    Contract(query=ItemsQuery, answers=ResponseItems, raises=(InvalidRequest,)),
)
async def list_response_items(request: Request, response_id: str, query: ItemsQuery) -> Response:
    """List the items that a response was made from, those before its own input included."""
    record = await _found(request, response_id)
    storage, caller = runtime_of(request).storage, caller_of(request)
    before: list[Json] = []
    previous = record.body["response"].get("previous_response_id")
    if previous is not None:
        try:
            before = await chain(storage, previous, caller)
        except InvalidRequest:
            before = []  # a part of it was deleted since
    items = [*before, *record.body["input"]]
    return json_response(page_of(shown(items, query.include), query))
