"""The events that clients send. Source: the types of OpenAI's SDK, ``openai.types.realtime``."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import Field

from backends.wire.common import Identifier, Text, WireModel
from catalog.errors import InvalidRequest
from catalog.types import Json
from server.edge.json_body import as_model
from server.realtime.fields import ResponseFields

SHORT = 64 * 1024
"""Characters of an event that is parsed at once; a longer one is parsed in a thread. It is audio, pictures or a
long
text, so it has few values."""
_MOST_VALUES = 20_000


class ClientEvent(WireModel):
    type: Identifier
    event_id: Annotated[str, Field(max_length=512)] | None = None


class SessionUpdate(ClientEvent):
    session: dict[str, Any]


class AudioAppend(ClientEvent):
    audio: Text


class ItemCreate(ClientEvent):
    item: dict[str, Any]
    previous_item_id: Identifier | None = None


class ItemNamed(ClientEvent):
    item_id: Identifier


class ItemTruncate(ItemNamed):
    content_index: Annotated[int, Field(ge=0, le=1024)] = 0
    audio_end_ms: Annotated[int, Field(ge=0, le=100_000_000)]


class ResponseCreate(ClientEvent):
    response: ResponseFields | None = None


class ResponseCancel(ClientEvent):
    response_id: Identifier | None = None


EVENTS: dict[str, type[ClientEvent]] = {
    "session.update": SessionUpdate,
    "transcription_session.update": SessionUpdate,
    "input_audio_buffer.append": AudioAppend,
    "input_audio_buffer.commit": ClientEvent,
    "input_audio_buffer.clear": ClientEvent,
    "output_audio_buffer.clear": ClientEvent,
    "conversation.item.create": ItemCreate,
    "conversation.item.retrieve": ItemNamed,
    "conversation.item.truncate": ItemTruncate,
    "conversation.item.delete": ItemNamed,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
}
"""The type of each event's body; ``transcription_session.update`` is the beta's."""


def parse_event(text: str | bytes) -> Json:
    """The JSON object of a message. Raises InvalidRequest."""
    count = text.count(b",") if isinstance(text, bytes) else text.count(",")
    if len(text) > SHORT and count > _MOST_VALUES:
        raise InvalidRequest("The event has too many values.")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidRequest("The message is not valid JSON: send one event in each.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("An event is a JSON object with a 'type'.")
    return value


def read_event(sent: Json) -> ClientEvent:
    """The typed event. Raises InvalidRequest that names the field."""
    kind = sent.get("type")
    model = EVENTS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise InvalidRequest(
            f"There is no event of this type. The types are {', '.join(sorted(EVENTS))}.", param="type"
        )
    return as_model(model, sent)
