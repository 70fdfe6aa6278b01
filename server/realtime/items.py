"""The items of a conversation: as clients send them, as they are kept, and as messages of a chat."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Annotated, Any, Literal

from pydantic import Field

from backends.wire.chat import MAX_PARTS, ToolName
from backends.wire.common import CallId, Identifier, Text, WireModel
from catalog.errors import InvalidRequest, NotFound, RoundhouseError
from catalog.types import Json
from server.edge.json_body import as_model
from server.realtime.speaking.playback import Spoken

MOST_ITEMS = 4096
_NO_RESULT = "No result yet."
_SILENCE = "(The user said nothing that could be understood.)"


class ItemPart(WireModel):
    """A part of a message's content; ``text`` and ``audio`` are the beta's names of the output parts."""

    type: Literal["input_text", "input_audio", "input_image", "output_text", "output_audio", "text", "audio"]
    text: Text | None = None
    audio: Text | None = None
    transcript: Text | None = None
    image_url: Text | None = None
    detail: Literal["auto", "low", "high"] | None = None


class RealtimeMessage(WireModel):
    id: Identifier | None = None
    type: Literal["message"]
    role: Literal["user", "assistant", "system"]
    content: Annotated[list[ItemPart], Field(max_length=MAX_PARTS)]


class FunctionCallItem(WireModel):
    id: Identifier | None = None
    type: Literal["function_call"]
    name: ToolName
    arguments: Text
    call_id: CallId | None = None


class FunctionOutputItem(WireModel):
    id: Identifier | None = None
    type: Literal["function_call_output"]
    call_id: CallId
    output: Text


_READ: dict[Any, type[RealtimeMessage | FunctionCallItem | FunctionOutputItem]] = {
    "message": RealtimeMessage,
    "function_call": FunctionCallItem,
    "function_call_output": FunctionOutputItem,
}


@dataclass(eq=False, slots=True)
class Item:
    """One item. ``body`` is OpenAI's object without audio; ``audio`` is what the client sent or was sent.

    ``transcribing`` writes the transcript of a user's audio into the body, or sets ``failure``; ``spoken`` tells
    what of an answer was said when.
    """

    body: Json
    audio: bytes = b""
    transcribing: asyncio.Task[None] | None = None
    failure: RoundhouseError | None = None
    spoken: Spoken | None = None
    size: int = 0

    @property
    def id(self) -> str:
        name: str = self.body["id"]
        return name

    def public(self, *, audio: bool = False) -> Json:
        """The item for a client, with its audio if that was asked for."""
        told = dict(self.body)
        if audio and self.audio and told.get("content"):
            encoded = base64.b64encode(self.audio).decode()
            first, *others = told["content"]
            told["content"] = [{**first, "audio": encoded}, *others]
        return told


def new_id(kind: str) -> str:
    """A new id, such as ``item_...``."""
    return f"{kind}_{token_hex(10)}"


def read_item(sent: Json, param: str = "item") -> Item:
    """The item that a client sent. Raises InvalidRequest that names the field."""
    kind = _READ.get(sent.get("type")) if isinstance(sent.get("type"), str) else None
    if kind is None:
        raise InvalidRequest(
            "An item is a 'message', a 'function_call' or a 'function_call_output'.", param=f"{param}.type"
        )
    try:
        read = as_model(kind, sent)
    except InvalidRequest as error:
        error.param = param if error.param is None else f"{param}.{error.param}"
        raise
    name = read.id or new_id("item")
    head: Json = {"id": name, "object": "realtime.item", "type": read.type, "status": "completed"}
    if isinstance(read, RealtimeMessage):
        content, audio = _content(read, param)
        return Item({**head, "role": read.role, "content": content}, audio, size=len(str(sent)))
    fields: Json = {"call_id": read.call_id or new_id("call")}
    if isinstance(read, FunctionCallItem):
        fields |= {"name": read.name, "arguments": read.arguments}
    else:
        fields["output"] = read.output
    return Item({**head, **fields}, size=len(str(sent)))


def spoken_item(name: str, audio: bytes, transcript: str | None = None) -> Item:
    """A user's turn that was spoken; its transcript may come later."""
    body: Json = {
        "id": name,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": transcript}],
    }
    return Item(body, audio)


def decode_audio(text: str, param: str) -> bytes:
    """Bytes of base64. Raises InvalidRequest."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("The audio is not base64.", param=param) from None


def _content(message: RealtimeMessage, param: str) -> tuple[list[Json], bytes]:
    parts: list[Json] = []
    audio = b""
    for number, part in enumerate(message.content):
        where = f"{param}.content[{number}]"
        kind = part.type
        if message.role == "assistant":
            kind = "output_text" if kind == "text" else "output_audio" if kind == "audio" else kind
        if kind.startswith("input") == (message.role == "assistant"):
            raise InvalidRequest(f"A message of the {message.role} has no {kind} parts.", param=f"{where}.type")
        if kind == "input_audio":
            if part.audio is None and part.transcript is None:
                raise InvalidRequest("An input_audio part needs its audio.", param=f"{where}.audio")
            if part.audio is not None:
                if audio:
                    raise InvalidRequest("An item has one part with audio.", param=where)
                audio = decode_audio(part.audio, f"{where}.audio")
            parts.append({"type": kind, "transcript": part.transcript})
        elif kind == "input_image":
            if not part.image_url:
                raise InvalidRequest("An input_image part needs its image_url.", param=f"{where}.image_url")
            detail = {"detail": part.detail} if part.detail else {}
            parts.append({"type": kind, "image_url": part.image_url, **detail})
        elif kind == "output_audio":
            parts.append({"type": kind, "transcript": part.transcript or part.text or ""})
        else:
            if part.text is None:
                raise InvalidRequest(f"A part of type {kind!r} needs its text.", param=f"{where}.text")
            parts.append({"type": kind, "text": part.text})
    return parts, audio


@dataclass(slots=True)
class RealtimeConversation:
    """The items in their order. ``room`` bounds their text, ``audio_room`` the audio that is kept, in bytes."""

    id: str
    room: int
    audio_room: int
    items: list[Item] = field(default_factory=list)

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Insert an item after another (``"root"``: as the first; None: as the last); returns the id before it.

        Raises InvalidRequest for an id that is taken and a conversation that is full, NotFound for ``after``.
        """
        if any(item.id == each.id for each in self.items):
            raise InvalidRequest(f"There is an item {item.id[:80]!r} already.", param="item.id")
        size = item.size + sum(each.size for each in self.items)
        if len(self.items) >= MOST_ITEMS or size > self.room:
            raise InvalidRequest(
                f"The conversation is full ({MOST_ITEMS} items, {self.room:,} bytes). Delete items.", param="item"
            )
        at = len(self.items)
        if after == "root":
            at = 0
        elif after is not None:
            at = self.items.index(self.found(after, "previous_item_id")) + 1
        self.items.insert(at, item)
        self.keep_within()
        return self.items[at - 1].id if at else None

    def keep_within(self) -> None:
        """Forget the audio of the oldest items beyond the room for audio."""
        left = sum(len(each.audio) for each in self.items) - self.audio_room
        for each in self.items:
            if left <= 0:
                return
            left -= len(each.audio)
            each.audio = b""

    def found(self, name: str, param: str = "item_id") -> Item:
        """Raises NotFound."""
        for each in self.items:
            if each.id == name:
                return each
        raise NotFound(f"There is no item {name[:80]!r} in this conversation.", param=param)

    def delete(self, name: str) -> None:
        """Raises NotFound."""
        item = self.found(name)
        if item.transcribing is not None:
            item.transcribing.cancel()
        self.items.remove(item)

    def before(self, item: Item) -> str | None:
        """The id of the item before another; None also for one that was deleted."""
        at = self.items.index(item) if item in self.items else 0
        return self.items[at - 1].id if at else None


def messages_of(items: Iterable[Item]) -> Iterator[Json]:
    """The items as messages of a chat.

    A call without its result gets one that says so: strict servers refuse calls without results.
    """
    listed = list(items)
    results = {each.body["call_id"] for each in listed if each.body["type"] == "function_call_output"}
    calls: list[Json] = []
    called: set[str] = set()

    def end_calls() -> Iterator[Json]:
        if not calls:
            return
        yield {"role": "assistant", "content": None, "tool_calls": list(calls)}
        for call in calls:
            if call["id"] not in results:
                yield {"role": "tool", "tool_call_id": call["id"], "content": _NO_RESULT}
        calls.clear()

    for item in listed:
        body = item.body
        if body["type"] == "function_call":
            function = {"name": body["name"], "arguments": body["arguments"]}
            calls.append({"id": body["call_id"], "type": "function", "function": function})
            called.add(body["call_id"])
            continue
        yield from end_calls()
        if body["type"] == "function_call_output":
            if body["call_id"] in called:  # the result of a call that was deleted has no place in a chat
                yield {"role": "tool", "tool_call_id": body["call_id"], "content": body["output"]}
        elif (content := _chat_content(body["content"])) is not None:
            yield {"role": body["role"], "content": content}
    yield from end_calls()


def _chat_content(parts: list[Json]) -> str | list[Json] | None:
    """The content of a chat's message; None if it has nothing to say."""
    made: list[Json] = []
    for part in parts:
        if part["type"] == "input_image":
            url = {"url": part["image_url"], **({"detail": part["detail"]} if "detail" in part else {})}
            made.append({"type": "image_url", "image_url": url})
            continue
        text = part.get("text") if "text" in part else part.get("transcript")
        if part["type"] == "input_audio" and not (text or "").strip():
            text = _SILENCE
        if text:
            made.append({"type": "text", "text": text})
    if all(part["type"] == "text" for part in made):
        return " ".join(part["text"] for part in made) or None
    return made
