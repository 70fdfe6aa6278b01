"""/v1/chat/completions: the chats that were kept with ``store: true``. One belongs to the key that made it."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.answers import ChatCompletion
from backends.wire.common import Metadata, ModelName
from catalog.errors import InvalidRequest, NotFound
from catalog.types import Json
from routing.state.records import Record, RecordQuery
from server.answers.whole import json_response
from server.api.stored.pages import ListQuery, MetadataUpdate, page_of
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.history.chats import CHAT
from server.storage.storage import listed

router = APIRouter(tags=["completions"])


class OldestFirst(ListQuery):
    """A page of a list that is oldest first unless it is told otherwise."""

    order: Literal["asc", "desc"] = "asc"


class StoredChatsQuery(OldestFirst):
    """Stored chats, of one ``model``, and with each of these ``metadata`` (``metadata[key]=value``)."""

    model: ModelName | None = None
    metadata: Metadata | None = None


class StoredChat(ChatCompletion):
    metadata: dict[str, str]


class StoredChats(TypedDict):
    object: Literal["list"]
    data: list[StoredChat]
    first_id: str | None
    last_id: str | None
    has_more: bool


class StoredMessage(TypedDict):
    """A message that a stored chat answers; one with several parts has them in ``content_parts``."""

    id: str
    role: str
    content: str | None
    content_parts: NotRequired[list[dict[str, Any]] | None]
    name: NotRequired[str | None]
    tool_calls: NotRequired[list[dict[str, Any]] | None]


class StoredMessages(TypedDict):
    object: Literal["list"]
    data: list[StoredMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedChat(TypedDict):
    id: str
    object: Literal["chat.completion.deleted"]
    deleted: bool


async def _found(request: Request, name: str) -> Record:
    record = await runtime_of(request).storage.records.get(CHAT, name, caller_of(request).id)
    if record is None:
        raise NotFound(f"Chat completion {name[:100]!r} not found: was it made with 'store': true?")
    return record


@route(
    router,
    "GET",
    "/v1/chat/completions",
    Contract(query=StoredChatsQuery, answers=StoredChats, raises=(InvalidRequest,)),
)
async def list_chat_completions(request: Request, query: StoredChatsQuery) -> Response:
    """List the chats that were stored."""
    wanted = (query.metadata or {}).items()

    def selected(record: Record) -> bool:
        completion = record.body["completion"]
        return (query.model in (None, completion["model"], record.body["asked"])) and (
            wanted <= completion["metadata"].items()
        )

    rows, more = await runtime_of(request).storage.page(
        RecordQuery(CHAT, owner=caller_of(request).id), query.page(), keep=selected
    )
    return json_response(listed([row.body["completion"] for row in rows], more))


@route(router, "GET", "/v1/chat/completions/{completion_id}", Contract(answers=StoredChat))
async def get_chat_completion(request: Request, completion_id: str) -> Response:
    """Retrieve a stored chat."""
    return json_response((await _found(request, completion_id)).body["completion"])


@route(
    router,
    "POST",
    "/v1/chat/completions/{completion_id}",
    Contract(reads=MetadataUpdate, answers=StoredChat),
)
async def update_chat_completion(request: Request, completion_id: str, body: MetadataUpdate) -> Response:
    """Replace the metadata of a stored chat."""
    await _found(request, completion_id)
    changed = await runtime_of(request).storage.change(
        CHAT,
        completion_id,
        caller_of(request),
        lambda record: record.changed(completion={**record.body["completion"], "metadata": body.metadata or {}}),
    )
    return json_response(changed.body["completion"])


@route(router, "DELETE", "/v1/chat/completions/{completion_id}", Contract(answers=DeletedChat))
async def delete_chat_completion(request: Request, completion_id: str) -> Response:
    """Delete a stored chat."""
    await _found(request, completion_id)
    await runtime_of(request).storage.records.delete(CHAT, completion_id, caller_of(request).id)
    return json_response({"id": completion_id, "object": "chat.completion.deleted", "deleted": True})


@route(
    router,
    "GET",
    "/v1/chat/completions/{completion_id}/messages",
    Contract(query=OldestFirst, answers=StoredMessages, raises=(InvalidRequest,)),
)
async def list_chat_messages(request: Request, completion_id: str, query: OldestFirst) -> Response:
    """List the messages that a stored chat answers."""
    record = await _found(request, completion_id)
    messages = [_message(each, f"{record.id}-{at}") for at, each in enumerate(record.body["messages"])]
    return json_response(page_of(messages, query))


def _message(message: Json, name: str) -> Json:
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    return {**message, "id": name, "content": None if parts else content, "content_parts": parts}
