"""/v1/conversations: OpenAI's Conversations API. A conversation belongs to its key and does not expire."""

from __future__ import annotations

from secrets import token_hex
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.answers import ResponseItem
from backends.wire.common import Metadata
from backends.wire.responses import ResponsesRequest
from catalog.errors import InvalidRequest, NotFound, RateLimited
from catalog.types import Json
from routing.state.records import Record, RecordQuery, new_id
from server.answers.whole import json_response
from server.api.stored.pages import Included, ItemsQuery, MetadataUpdate
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.history.context import CONVERSATION, ITEM, item_record, items_of, no_conversation, refuse_unstored
from server.history.items import as_items, shown
from server.storage.storage import Page, listed

router = APIRouter(tags=["conversations"])
AT_ONCE = 20
Items = Annotated[list[dict[str, Any]], Field(max_length=AT_ONCE)]


class NewConversation(BaseModel):
    """A conversation to make, perhaps with up to 20 items."""

    model_config = ConfigDict(extra="allow")

    items: Items | None = None
    metadata: Metadata | None = None


class NewItems(BaseModel):
    """Up to 20 items to add to a conversation."""

    model_config = ConfigDict(extra="allow")

    items: Annotated[Items, Field(min_length=1)]


class IncludeQuery(BaseModel):
    """``include`` names parts of items that are not shown otherwise (``include[]=...``)."""

    include: Included | None = None


class StoredConversation(TypedDict):
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class DeletedConversation(TypedDict):
    id: str
    object: Literal["conversation.deleted"]
    deleted: bool


class ConversationItems(TypedDict):
    object: Literal["list"]
    data: list[ResponseItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


async def _found(request: Request, name: str) -> Record:
    record = await runtime_of(request).storage.records.get(CONVERSATION, name, caller_of(request).id)
    if record is None:
        raise no_conversation(name)
    return record


def _object(record: Record) -> Json:
    return {
        "id": record.id,
        "object": "conversation",
        "created_at": int(record.created_at),
        "metadata": record.body["metadata"],
    }


@route(
    router,
    "POST",
    "/v1/conversations",
    Contract(reads=NewConversation, optional=True, answers=StoredConversation, raises=(RateLimited,)),
)
async def create_conversation(request: Request, body: NewConversation) -> Response:
    """Make a conversation, which responses go on with and add their items to."""
    storage, caller = runtime_of(request).storage, caller_of(request)
    refuse_unstored(storage)
    name = new_id("conv")
    record = storage.new(CONVERSATION, name, {"metadata": body.metadata or {}}, caller, expires_at=None)
    items = _new(body.items or [])
    await storage.keep(record, *items_of(storage, name, items, caller))
    return json_response(_object(record))


def _new(items: list[Json]) -> list[Json]:
    """The items, complete. Raises InvalidRequest for malformed ones, references and an id that comes twice."""
    for at, item in enumerate(items):
        kind = item.get("type", "message" if "role" in item else None)
        if not isinstance(kind, str) or not kind:
            raise InvalidRequest("An item has a 'type', or is a message with a 'role'.", param=f"items[{at}]")
        if kind == "item_reference":
            raise InvalidRequest("A conversation holds items, not references to them.", param=f"items[{at}]")
        if not isinstance(item.get("id", ""), str | None) or len(item.get("id") or "") > 128:
            raise InvalidRequest("An item's id is a text of at most 128 characters.", param=f"items[{at}].id")
    if items:
        _check(items)
    made = as_items(items, token_hex(16))
    if len({item["id"] for item in made}) < len(made):
        raise InvalidRequest("Two of the items have the same id.", param="items")
    return made


def _check(items: list[Json]) -> None:
    """Raises InvalidRequest for items that no response could go on from."""
    from server.wires.responses import to_chat

    try:
        to_chat(ResponsesRequest.model_validate({"input": items}))
    except InvalidRequest as wrong:
        param = wrong.param and wrong.param.replace("input", "items", 1)
        raise InvalidRequest(wrong.message.replace("input[", "items["), param=param) from None


@route(router, "GET", "/v1/conversations/{conversation_id}", Contract(answers=StoredConversation))
async def get_conversation(request: Request, conversation_id: str) -> Response:
    """Retrieve a conversation, without its items."""
    return json_response(_object(await _found(request, conversation_id)))


@route(
    router,
    "POST",
    "/v1/conversations/{conversation_id}",
    Contract(reads=MetadataUpdate, answers=StoredConversation),
)
async def update_conversation(request: Request, conversation_id: str, body: MetadataUpdate) -> Response:
    """Replace the metadata of a conversation."""
    await _found(request, conversation_id)
    changed = await runtime_of(request).storage.change(
        CONVERSATION,
        conversation_id,
        caller_of(request),
        lambda record: record.changed(metadata=body.metadata or {}),
    )
    return json_response(_object(changed))


@route(router, "DELETE", "/v1/conversations/{conversation_id}", Contract(answers=DeletedConversation))
async def delete_conversation(request: Request, conversation_id: str) -> Response:
    """Delete a conversation and its items; responses that were made in it stay."""
    await _found(request, conversation_id)
    await runtime_of(request).storage.records.delete(CONVERSATION, conversation_id, caller_of(request).id)
    return json_response({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


@route(
    router,
    "POST",
    "/v1/conversations/{conversation_id}/items",
    Contract(reads=NewItems, query=IncludeQuery, answers=ConversationItems, raises=(RateLimited,)),
)
async def create_conversation_items(
    request: Request, conversation_id: str, body: NewItems, query: IncludeQuery
) -> Response:
    """Add items to a conversation, in their order."""
    await _found(request, conversation_id)
    storage, caller = runtime_of(request).storage, caller_of(request)
    refuse_unstored(storage)
    items = _new(body.items)
    told = shown(items, query.include)
    for given in body.items:
        name = given.get("id")
        if name and await storage.records.get(ITEM, item_record(conversation_id, name)) is not None:
            raise InvalidRequest(f"The conversation has an item with the id {name!r} already.", param="items")
    await storage.keep(*items_of(storage, conversation_id, items, caller))
    return json_response(listed(told, more=False))


@route(
    router,
    "GET",
    "/v1/conversations/{conversation_id}/items",
    Contract(query=ItemsQuery, answers=ConversationItems, raises=(InvalidRequest,)),
)
async def list_conversation_items(request: Request, conversation_id: str, query: ItemsQuery) -> Response:
    """List the items of a conversation."""
    await _found(request, conversation_id)
    storage = runtime_of(request).storage
    after = None if query.after is None else item_record(conversation_id, query.after)
    if after is not None and await storage.records.place(ITEM, after, caller_of(request).id) is None:
        raise _no_item(query.after, "after")
    rows, more = await storage.page(
        RecordQuery(ITEM, owner=caller_of(request).id, parent=conversation_id),
        Page(query.limit, query.order, after),
    )
    return json_response(listed(shown([row.body for row in rows], query.include), more))


def _no_item(name: str | None, param: str) -> NotFound:
    return NotFound(f"The conversation has no item {str(name)[:100]!r}.", param=param)


async def _item(request: Request, conversation: str, name: str) -> Record:
    await _found(request, conversation)
    records = runtime_of(request).storage.records
    record = await records.get(ITEM, item_record(conversation, name), caller_of(request).id)
    if record is None:
        raise _no_item(name, "item_id")
    return record


@route(
    router,
    "GET",
    "/v1/conversations/{conversation_id}/items/{item_id}",
    Contract(query=IncludeQuery, answers=ResponseItem, raises=(InvalidRequest,)),
)
async def get_conversation_item(
    request: Request, conversation_id: str, item_id: str, query: IncludeQuery
) -> Response:
    """Retrieve an item of a conversation."""
    record = await _item(request, conversation_id, item_id)
    return json_response(shown([record.body], query.include)[0])


@route(
    router, "DELETE", "/v1/conversations/{conversation_id}/items/{item_id}", Contract(answers=StoredConversation)
)
async def delete_conversation_item(request: Request, conversation_id: str, item_id: str) -> Response:
    """Delete an item of a conversation."""
    record = await _item(request, conversation_id, item_id)
    await runtime_of(request).storage.records.delete(ITEM, record.id, caller_of(request).id)
    return json_response(_object(await _found(request, conversation_id)))
