"""The turns before a Responses request: a chain of responses, a conversation, items that it refers to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from backends.wire.responses import ResponsesRequest
from catalog.errors import InvalidRequest, NotFound
from catalog.types import Json
from routing.state.records import Record, RecordQuery, every
from server.callers import Caller
from server.history.compaction import is_own, opened
from server.history.items import response_of, without_own_ids
from server.storage.storage import Storage

RESPONSE, CONVERSATION, ITEM = "response", "conversation", "conversation_item"
"""Kinds of records. A response's body has the ``response`` and its ``input`` items."""
LONGEST_CHAIN = 1000
SEARCHED = 50
"""Responses of a key that are searched for an item which a provider named."""
_UNFINISHED = ("queued", "in_progress", "cancelling")


class PreviousResponseNotFound(InvalidRequest):
    """A response that ``previous_response_id`` names, or one before it, is not stored for this key."""

    code = "previous_response_not_found"

    @classmethod
    def of(cls, name: str) -> PreviousResponseNotFound:
        """Make the error for the response ``name``."""
        return cls(
            f"Previous response with id {name[:100]!r} not found: it was deleted or has expired, or another key "
            "made it. Send the items of the conversation in 'input'.",
            param="previous_response_id",
        )


@dataclass(frozen=True, slots=True)
class Context:
    """The turns before an ``input``, and the conversation that they are of."""

    items: list[Json]
    conversation: str | None = None


NOTHING = Context([])


async def context_of(storage: Storage, request: ResponsesRequest, caller: Caller) -> Context:
    """The items that a request goes on with.

    Raises PreviousResponseNotFound for a chain of which a part is gone, NotFound for another key's conversation,
    InvalidRequest for a chain that cannot be, and Unavailable.
    """
    conversation = conversation_id(request)
    if request.previous_response_id == "":
        raise InvalidRequest(
            "'previous_response_id' is empty; leave it out to begin anew.", param="previous_response_id"
        )
    if request.previous_response_id is not None:
        if conversation is not None:
            raise InvalidRequest(
                "'previous_response_id' and 'conversation' exclude each other: a conversation has its items.",
                param="previous_response_id",
            )
        return Context(await chain(storage, request.previous_response_id, caller))
    if conversation is None:
        return NOTHING
    record = await storage.records.get(CONVERSATION, conversation)
    if record is None or record.owner != caller.id:
        raise no_conversation(conversation)
    refuse_unstored(storage)
    return Context(await conversation_items(storage, conversation, caller), conversation)


def conversation_id(request: ResponsesRequest) -> str | None:
    """The id in ``conversation``. Raises InvalidRequest for an object without one."""
    given = request.conversation
    if given is None:
        return None
    name = given.get("id") if isinstance(given, dict) else given
    if not isinstance(name, str) or not name:
        raise InvalidRequest("'conversation' is an id, or an object with an 'id'.", param="conversation")
    return name


def refuse_unstored(storage: Storage) -> None:
    """Raises InvalidRequest if the settings let no item be added to a conversation."""
    if storage.settings.store == "never":
        raise InvalidRequest(
            'Conversations are stored, and nothing is stored here (storage.store = "never"). Send the items in '
            "'input'.",
            param="conversation",
        )


def no_conversation(name: str) -> NotFound:
    """The error for a conversation that is not there for a key."""
    return NotFound(f"Conversation with id {name[:100]!r} not found.", param="conversation")


async def chain(storage: Storage, last: str, caller: Caller) -> list[Json]:
    """The items of a response and all before it, oldest first.

    Raises PreviousResponseNotFound and InvalidRequest.
    """
    turns: list[list[Json]] = []
    seen: set[str] = set()
    name: str | None = last
    while name is not None:
        if name in seen:
            raise InvalidRequest(
                f"The chain of responses before {last[:100]!r} returns to {name[:100]!r}: it is a cycle.",
                param="previous_response_id",
            )
        if len(seen) >= LONGEST_CHAIN:
            raise InvalidRequest(
                f"More than {LONGEST_CHAIN:,} responses come before this one. Use a conversation, or compact it "
                "(POST /v1/responses/compact).",
                param="previous_response_id",
            )
        seen.add(name)
        record = await storage.records.get(RESPONSE, name)
        if record is None or record.owner != caller.id:
            raise PreviousResponseNotFound.of(name)
        if record.status in _UNFINISHED:
            raise InvalidRequest(
                f"The response {name[:100]!r} is not finished; wait for it before you go on from it.",
                param="previous_response_id",
            )
        response = record.body["response"]
        turns.append([*record.body["input"], *response["output"]])
        name = response.get("previous_response_id")
        if name is None and response.get("conversation"):
            # A response of a conversation went on with what the conversation held then; its items are kept there.
            turns.append(await _before(storage, record.body, caller))
    return [item for turn in reversed(turns) for item in turn]


def is_reference(item: Json) -> bool:
    """Whether an item of an input stands for a stored one; OpenAI lets a reference leave its type out."""
    return item.get("type") == "item_reference" or (item.get("type") is None and item.keys() <= {"type", "id"})


async def _before(storage: Storage, body: Mapping[str, Any], caller: Caller) -> list[Json]:
    """The items of a response's conversation that came before its own."""
    name = body["response"]["conversation"]["id"]
    own = {item.get("id") for item in (*body["input"], *body["response"]["output"])}
    before: list[Json] = []
    for item in await conversation_items(storage, name, caller):
        if item.get("id") in own:
            break
        before.append(item)
    return before


async def conversation_items(storage: Storage, name: str, caller: Caller) -> list[Json]:
    """The items of a conversation, oldest first."""
    query = RecordQuery(ITEM, owner=caller.id, parent=name, limit=1000)
    return [record.body async for record in every(storage.records, query)]


async def resolved(
    storage: Storage, context: Context, given: str | list[Json] | None, caller: Caller
) -> list[Json]:
    """The items of an input, with the items that it refers to in place of references.

    Raises InvalidRequest for a reference to nothing, and for an item that the context has already.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    known = {item["id"]: item for item in context.items if isinstance(item.get("id"), str)}
    before = frozenset(known)
    items = []
    for item in given or ():
        if is_reference(item):
            items.append(await _resolved(storage, caller, item, known))
        elif isinstance(item.get("id"), str) and item["id"] in before:
            raise InvalidRequest(
                f"Duplicate item found with id {item['id'][:100]!r}: the conversation before this input has it. "
                "Send new items only.",
                param="input",
            )
        else:
            items.append(item)
    return items


async def readable(storage: Storage, items: list[Json], caller: Caller) -> list[Json]:
    """Items for a model: compactions opened, and without ids that nobody else knows. Raises InvalidRequest."""
    return without_own_ids([await opened(storage, caller, item) if is_own(item) else item for item in items])


async def _resolved(storage: Storage, caller: Caller, reference: Json, known: dict[str, Json]) -> Json:
    """The item that a reference names, of the caller's own responses.

    An item of a provider's naming is looked for in the newest :data:`SEARCHED` of them. ``known`` are items by
    their ids, to which those of a response that was read are added.
    """
    name = reference.get("id")
    if not isinstance(name, str) or not name:
        raise InvalidRequest("An 'item_reference' needs the 'id' of an item, a text.", param="input")
    if name in known:
        return known[name]
    response = response_of(name)
    if response is not None:
        record = await storage.records.get(RESPONSE, response, caller.id)
        records = [] if record is None else [record]
    else:
        records = await storage.records.find(
            RecordQuery(RESPONSE, owner=caller.id, newest_first=True, limit=SEARCHED)
        )
    for record in records:
        found = (*record.body["input"], *record.body["response"]["output"])
        for item in found:
            if isinstance(item.get("id"), str):
                known.setdefault(item["id"], item)
    if name not in known:
        raise InvalidRequest(
            f"Item with id {name[:100]!r} not found: its response was not stored, was deleted or has expired, or "
            "another key made it. Send the item itself.",
            param="input",
        )
    return known[name]


def items_of(storage: Storage, conversation: str, items: list[Json], caller: Caller) -> list[Record]:
    """The records of a conversation's new items. The id of a record has the conversation's before the item's."""
    make = partial(storage.new, ITEM, caller=caller, parent=conversation, expires_at=None)
    return [make(item_record(conversation, item["id"]), body=item) for item in items]


def item_record(conversation: str, item: str) -> str:
    """The id of the record of a conversation's item: the same item may stand in several conversations."""
    return f"{conversation}:{item}"
