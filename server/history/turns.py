"""One turn of the Responses API: the caller's request with what came before it, and the keeping of its answer."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial

import structlog

from backends.wire.chat import TranslatedChat
from backends.wire.responses import ResponsesRequest
from catalog.errors import InvalidRequest, RoundhouseError, UnsupportedParameter, UpstreamProtocolError
from catalog.types import Json
from routing.calling.job import Job
from routing.state.records import Record
from server.answers.rounds import Rounds
from server.callers import Caller, Origin
from server.history.context import (
    NOTHING,
    RESPONSE,
    Context,
    context_of,
    is_reference,
    items_of,
    readable,
    resolved,
)
from server.history.files import objects_of_response, with_files
from server.history.items import as_items, name_items
from server.history.recording import RecordedStream
from server.history.truncation import opener
from server.jobs import KEPT, Opens, chat_job
from server.runtime import Runtime
from server.storage.provider_objects import refuse_addresses, withheld
from server.storage.storage import Storage
from server.wires.responses import ResponseStream, to_chat
from server.wires.responses.drawing import DRAW, ImageTool, can_draw
from server.wires.responses.tools import DRAWING, Toolbox
from server.wires.web_search import can_search

_LONG = 500
"""Items above which the translation of a request runs in a thread."""


@dataclass(slots=True)
class Turn:
    """A request, ``whole`` with the context before its input, and whether its response is ``kept``.

    ``name`` is the trace of its job; ``body`` is the request as it came, and ``given`` its input with the items
    that it refers to. ``withheld`` is an id in it that must not go to a provider.
    """

    runtime: Runtime
    caller: Caller
    name: str
    body: ResponsesRequest
    given: str | list[Json] | None
    whole: ResponsesRequest
    context: Context
    kept: bool
    withheld: str | None

    @property
    def storage(self) -> Storage:
        return self.runtime.storage

    @property
    def response_id(self) -> str:
        return f"resp_{self.name}"

    @property
    def state(self) -> Json:
        """The fields of the response about where it is kept."""
        body = self.body
        told: Json = {"store": self.kept, "previous_response_id": body.previous_response_id}
        if self.context.conversation is not None:
            told["conversation"] = {"id": self.context.conversation}
        return told

    async def chat(self) -> TranslatedChat:
        """The request as a chat. Raises InvalidRequest."""
        searches = partial(can_search, runtime=self.runtime, caller=self.caller)
        translate = partial(to_chat, self.whole, searches=searches, draws=self._draws, withheld=self.withheld)
        if isinstance(self.whole.input, list) and len(self.whole.input) > _LONG:
            return await asyncio.to_thread(translate)
        return translate()

    async def job(self, origin: Origin) -> Job[Json]:
        """The job of the request. Raises InvalidRequest."""
        return chat_job(await self.chat(), origin, kept=KEPT if self.kept else ())

    def opens(self, origin: Origin) -> Opens[Json]:
        """How the job is opened: in rounds, where the model may call a tool that the gateway serves itself."""
        opens = opener(self.body.truncation, origin)
        if not any(tool.get("type") == DRAW for tool in self.whole.tools or ()):
            return opens
        toolbox = Toolbox(self.whole, draws=self._draws)
        if toolbox.drawing is None:
            return opens
        tool = ImageTool(self.runtime, self.caller, origin, toolbox.drawing, streamed=bool(self.body.stream))
        tools = {toolbox.name_of(DRAWING): tool}
        return partial(Rounds, origin=origin, tools=tools, most_calls=self.body.max_tool_calls, opens=opens)

    def _draws(self, tool: Json) -> bool:
        return can_draw(tool, self.whole.model, self.runtime, self.caller)

    def translation(self) -> ResponseStream:
        """The translation of one answer."""
        return ResponseStream(self.whole, self.response_id, int(time.time()), state=self.state)

    def record(self, response: Json, **fields: object) -> Record:
        """The record of a response."""
        body: Json = {"response": response, "input": as_items(self.given, self.name)}
        return self.storage.new(RESPONSE, str(response["id"]), body | fields, self.caller)

    async def keep(self, response: Json, stream: RecordedStream | None = None) -> None:
        """Store a finished response, with the events of its ``stream``, and its items in its conversation.

        The answer of one that cannot be stored is not lost: it says so, because its ``store`` becomes false.
        """
        conversation = self.context.conversation
        if not self.kept and conversation is None:
            return
        try:
            self.name_items(response)
            records = [self.record(response)] if self.kept else []
            if records and stream is not None:
                records.append(stream.record(records[0]))
            if conversation is not None:
                records += items_of(self.storage, conversation, self.new_items(response), self.caller)
            await self.storage.keep(*records)
        except RoundhouseError as error:
            structlog.get_logger("server.history").warning(
                "response.not_stored", response=self.response_id, error=error.message
            )
            response["store"] = False
            if conversation is not None:
                response["conversation"] = None

    def name_items(self, response: Json) -> None:
        """Give an id to each output item that has none, or that of another item.

        Raises UpstreamProtocolError for a response without output.
        """
        if not isinstance(response.get("output"), list):
            raise UpstreamProtocolError("The upstream's response has no output.")
        given = self.given if isinstance(self.given, list) else ()
        name_items(response["output"], (*self.context.items, *given), self.name)

    def items(self) -> list[Json]:
        """All items before the answer, complete."""
        return as_items([*self.context.items, *as_items(self.given, self.name)], self.name)

    def new_items(self, response: Json) -> list[Json]:
        """The items that this turn adds to a conversation."""
        return [*as_items(self.given, self.name), *response["output"]]


def keeps(storage: Storage, store: bool | None, *, default: bool) -> bool:
    """Whether an answer is kept, by the caller's ``store`` (``default`` if there is none) and the settings."""
    match storage.settings.store:
        case "never":
            return False
        case "asked":
            return store is True
        case _:
            return default if store is None else store


async def turn_of(runtime: Runtime, body: ResponsesRequest, caller: Caller, name: str) -> Turn:
    """The turn of a request. ``name`` is its trace, 32 hexadecimal digits.

    Raises InvalidRequest for a context that is not there or cannot be, NotFound and Unavailable.
    """
    storage = runtime.storage
    kept = keeps(storage, body.store, default=True)
    if body.store and not kept:
        raise UnsupportedParameter(
            "Responses are not stored here (storage.store = \"never\"). Leave 'store' out or set it to false.",
            param="store",
        )
    if body.background and not (kept and storage.settings.background):
        if kept:
            why = "are switched off (storage.background)"
        elif storage.settings.store == "never":
            why = 'are stored, and nothing is stored here (storage.store = "never")'
        else:
            why = "are stored: 'store' must be true"
        raise UnsupportedParameter(f"Background responses {why}.", param="background")
    stateful = body.previous_response_id is not None or body.conversation is not None
    context = await context_of(storage, body, caller) if stateful else NOTHING
    given = body.input
    changes: Json = {}
    if stateful:
        changes = {"previous_response_id": None, "conversation": None}
    if changes or (isinstance(given, list) and any(map(_is_stateful, given))):
        given = await resolved(storage, context, given, caller)
        changes["input"] = await readable(storage, [*context.items, *given], caller)
    items = changes.get("input", given)
    if isinstance(items, list):
        filed = await with_files(items, runtime, caller)
        if filed is not items:
            changes["input"] = filed
        refuse_addresses(storage, caller, items)
    if body.background:
        changes["background"] = None
        if (options := (body.model_extra or {}).get("background_options")) is not None:
            _check_options(options)
            changes["background_options"] = None
    sent = body.input if isinstance(body.input, list) else ()
    if body.tools or body.model_extra:
        refuse_addresses(storage, caller, body.tools, body.model_extra)
    held = withheld(storage, caller, *objects_of_response(body), filed=sent)
    whole = _with(body, changes) if changes else body
    return Turn(runtime, caller, name, body, given, whole, context, kept, held)


def _check_options(options: object) -> None:
    """Raises InvalidRequest for options of a background response that are none, or cannot be kept."""
    if not isinstance(options, dict):
        raise InvalidRequest("'background_options' must be an object.", param="background_options")
    if options.get("completion_window", "soonest") not in (None, "soonest"):
        raise UnsupportedParameter(
            "Background responses begin at once here, at the usual price. Leave 'completion_window' out; "
            "service_tier 'flex' and POST /v1/batches are cheaper.",
            param="background_options.completion_window",
        )


def _is_stateful(item: Json) -> bool:
    return item.get("type") == "compaction" or is_reference(item)


def _with(body: ResponsesRequest, changes: Json) -> ResponsesRequest:
    """A copy with other fields; those that are ``None`` are not sent on."""
    changed = body.model_copy(update=changes)
    unsent = {name for name, value in changes.items() if value is None}
    changed.__pydantic_fields_set__.difference_update(unsent)
    for name in unsent & (changed.model_extra or {}).keys():
        del (changed.model_extra or {})[name]
    return changed
