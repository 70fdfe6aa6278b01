"""One response: a chat model's answer, told as events, and spoken while it is still being written."""

from __future__ import annotations

import asyncio
import base64
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from backends.wire.chat import ChatRequest
from catalog.errors import InvalidRequest, RoundhouseError, StreamBroken
from catalog.types import Json
from routing.calling.answer import Answer
from server.answers.pieces import TextPieces, speakable
from server.edge.errors import as_error
from server.edge.json_body import from_validation
from server.history.truncation import Truncating
from server.jobs import chat_job
from server.realtime.configuration import Configuration, told_form
from server.realtime.context import SessionContext, items_of
from server.realtime.fields import ResponseFields
from server.realtime.items import Item, RealtimeConversation, messages_of, new_id
from server.realtime.shapes import chat_choice, chat_tool, event_part, part_of, usage_of
from server.realtime.speaking.playback import PACE_MS, Spoken
from server.realtime.speaking.voice import SessionVoice

_PIECES = 32
"""Pieces that wait to be spoken; then the model's answer is read no further."""
_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Room(Protocol):
    """The session, as a response sees it."""

    context: SessionContext
    configuration: Configuration
    conversation: RealtimeConversation

    async def send(self, event: Json) -> None: ...

    async def place(self, item: Item) -> None:
        """Add an item to the conversation and tell of it."""
        ...


@dataclass(slots=True)
class _Output:
    """An item of the response, and its place in it."""

    item: Item
    index: int
    text: str = ""
    closed: bool = False


@dataclass(slots=True)
class _Told:
    """The facts of the answer, for ``response.done``."""

    usage: Json | None = None
    finish: str | None = None
    trace: str | None = None
    chat: Json = field(default_factory=dict)


class ResponseRun:
    """Runs one response. :meth:`cancel` ends its sound at once."""

    def __init__(self, room: Room, fields: ResponseFields, context: list[Item] | None) -> None:
        """``context`` are the items that it answers; None: the conversation's when it begins."""
        self.id = new_id("resp")
        self.first_audio: float | None = None
        self.turn_ended: float | None = None
        """When the turn that it answers ended, by the same clock as ``first_audio``."""
        self._room = room
        self._fields = fields
        self._context = context
        self._session = room.configuration
        self._outputs: list[_Output] = []
        self._calls: dict[int, _Output] = {}
        self._message: _Output | None = None
        self._told = _Told()
        self._why: str | None = None
        self._failure: RoundhouseError | None = None
        self._inner: asyncio.Task[None] | None = None
        self._voice: SessionVoice | None = None
        self.in_conversation = fields.conversation != "none"
        modalities = fields.output_modalities or self._session.fields.output_modalities or ["audio"]
        self.speaks = "audio" in modalities
        self.done = asyncio.Event()

    @property
    def spoken(self) -> Item | None:
        """The message with sound that this response has made."""
        return self._message.item if self._message is not None and self._message.item.spoken is not None else None

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled, and is ending."""
        return self._why is not None

    def cancel(self, reason: str) -> None:
        """End it: ``turn_detected`` or ``client_cancelled``. No delta follows."""
        if self._why is None and not self.done.is_set():
            self._why = reason
            if self._inner is not None:
                self._inner.cancel()

    def fail(self, error: RoundhouseError) -> None:
        """End it with an error of its session. No delta follows."""
        self._failure = self._failure or error
        self.cancel("session_ended")

    async def run(self) -> None:
        """From ``response.created`` to ``response.done``."""
        error: RoundhouseError | None = None
        try:
            await self._room.send({"type": "response.created", "response": self._public("in_progress")})
            self._inner = asyncio.create_task(self._answer())
            if self._why is not None:
                self._inner.cancel()
            try:
                await asyncio.wait({self._inner})
            except asyncio.CancelledError:
                self._inner.cancel()
                await asyncio.wait({self._inner})
                raise
            if not self._inner.cancelled() and (raised := self._inner.exception()) is not None:
                error = _first(raised)
                self._room.context.on_error(error.code)
            await self._close(self._failure or error)
        finally:
            self.done.set()

    # ---- the answer

    async def _answer(self) -> None:
        request = await self._request()
        pieces: asyncio.Queue[str | None] = asyncio.Queue(_PIECES)
        if not self.speaks:
            await self._write(request, None)
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write(request, pieces))
            tasks.create_task(self._speak(pieces))

    async def _request(self) -> Json:
        """The body of the chat. Waits for the transcripts of its input."""
        items = list(self._room.conversation.items) if self._context is None else self._context
        for item in items:
            if item.transcribing is not None:
                await asyncio.wait({item.transcribing})
        if items and items[-1].failure is not None:
            raise items[-1].failure
        return self._body(items)

    def _body(self, items: list[Item]) -> Json:
        own, session = self._fields, self._session.fields
        instructions = own.instructions if own.instructions is not None else session.instructions
        messages: list[Json] = [{"role": "system", "content": instructions}] if instructions else []
        messages += messages_of(items)
        if not any(message["role"] != "system" for message in messages) and not messages:
            raise InvalidRequest("There is nothing to answer: the conversation is empty.", param="response")
        body: Json = {"model": session.model, "messages": messages, "stream": True}
        tools = own.tools if own.tools is not None else session.tools
        if functions := [chat_tool(tool) for tool in tools or () if tool.type == "function"]:
            body |= {"tools": functions, **self._of_tools()}
        most = own.max_output_tokens or session.max_output_tokens
        if isinstance(most, int):
            body["max_completion_tokens"] = most
        reasoning = own.reasoning or session.reasoning
        if reasoning is not None and reasoning.effort is not None:
            body["reasoning_effort"] = reasoning.effort
        temperature = own.temperature if own.temperature is not None else session.temperature
        if temperature is not None:
            body["temperature"] = temperature
        for name in ("routing", "strict"):
            if getattr(session, name) is not None:
                body[name] = getattr(session, name)
        return body

    def _of_tools(self) -> Json:
        """How the model may use its tools, where that differs from the default."""
        own, session = self._fields, self._session.fields
        choice = own.tool_choice if own.tool_choice is not None else session.tool_choice
        parallel = own.parallel_tool_calls
        parallel = session.parallel_tool_calls if parallel is None else parallel
        told: Json = {} if choice in (None, "auto") else {"tool_choice": chat_choice(choice)}
        return told if parallel is None else {**told, "parallel_tool_calls": parallel}

    async def _write(self, body: Json, pieces: asyncio.Queue[str | None] | None) -> None:
        """Read the model's answer; its text becomes deltas, or pieces to speak."""
        context = self._room.context
        try:
            chat = ChatRequest.model_validate(body)
        except ValidationError as error:
            raise from_validation(error, body, ChatRequest) from None
        chat, origin = context.asked(chat)
        job = chat_job(chat, origin)
        self._told.trace = job.trace
        cut = TextPieces()
        opening = (
            context.open(job, origin.caller)
            if self._session.fields.truncation == "disabled"
            else context.working(Truncating(context.runtime, job, origin.caller, origin=origin))
        )
        async with opening as answer:
            try:
                await self._read(answer, cut, pieces)
            finally:  # also of one that is cut short
                self._told.chat = {
                    name.removeprefix("x-roundhouse-"): value for name, value in answer.headers().items()
                }
        if pieces is not None:
            self._own_voice().spent += answer.spent
        if pieces is not None:
            if rest := cut.rest():
                await pieces.put(rest)
            await pieces.put(None)

    async def _read(self, answer: Answer[Json], cut: TextPieces, pieces: asyncio.Queue[str | None] | None) -> None:
        while True:
            try:
                async with items_of(answer) as chunks:
                    async for chunk in chunks:
                        await self._take(chunk, cut, pieces)
                if self._told.finish is None:
                    raise StreamBroken("The answer ended without a finish_reason.")
                return
            except RoundhouseError as error:
                if self._outputs:
                    raise
                await answer.resume(error)

    async def _take(self, chunk: Json, cut: TextPieces, pieces: asyncio.Queue[str | None] | None) -> None:
        if chunk.get("usage") is not None:
            self._told.usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if text := delta.get("content"):
                if pieces is None:
                    await self._write_text(text)
                else:
                    for piece in cut.add(text):
                        await pieces.put(piece)
            for call in delta.get("tool_calls") or ():
                await self._call(call)
            self._told.finish = choice.get("finish_reason") or self._told.finish

    async def _write_text(self, text: str) -> None:
        output = await self._begin_message("output_text")
        output.text += text
        await self._send("response.output_text.delta", output, content_index=0, delta=text)

    async def _call(self, call: Json) -> None:
        """Tell of a part of a function call."""
        at, function = call.get("index", 0), call.get("function") or {}
        output = self._calls.get(at)
        if output is None:
            body: Json = {
                "id": new_id("item"),
                "object": "realtime.item",
                "type": "function_call",
                "status": "in_progress",
                "call_id": call.get("id") or new_id("call"),
                "name": function.get("name") or "",
                "arguments": "",
            }
            output = self._calls[at] = await self._add(Item(body))
        if arguments := function.get("arguments"):
            output.text += arguments
            await self._send(
                "response.function_call_arguments.delta",
                output,
                call_id=output.item.body["call_id"],
                delta=arguments,
            )

    # ---- the sound

    async def _speak(self, pieces: asyncio.Queue[str | None]) -> None:
        while (piece := await pieces.get()) is not None:
            output = await self._begin_message("output_audio")
            spoken = output.item.spoken
            assert spoken is not None
            spoken.begin(piece)
            output.text += piece
            await self._send("response.output_audio_transcript.delta", output, content_index=0, delta=piece)
            if text := speakable(piece):
                async with aclosing(self._own_voice().speak(text)) as sound:
                    async for audio in sound:
                        await self._send_audio(output, spoken, audio)
            spoken.end()

    async def _send_audio(self, output: _Output, spoken: Spoken, audio: bytes) -> None:
        context = self._room.context
        if self.first_audio is None:
            self.first_audio = context.clock()
        form = self._form()
        spoken.sent(form.seconds(len(audio)) * 1000, context.clock())
        if context.settings.audio_bytes:
            output.item.audio += audio
        encoded = base64.b64encode(audio).decode()
        await self._send("response.output_audio.delta", output, content_index=0, delta=encoded)

    def _own_voice(self) -> SessionVoice:
        if self._voice is None:
            own = self._fields.audio.output if self._fields.audio is not None else None
            output = self._session.fields.audio.output
            voice = output.voice if own is None or own.voice is None else own.voice
            self._voice = SessionVoice(
                self._room.context,
                self._form(),
                model=output.model if own is None or own.model == "auto" else own.model,
                voice=voice,
                speed=output.speed if own is None or own.speed == 1.0 else own.speed,
                routing=self._session.fields.routing,
                strict=self._session.fields.strict,
            )
        return self._voice

    def _spoken(self) -> Spoken:
        return Spoken(pace=PACE_MS / self._own_voice().speed)

    def _form(self) -> Any:
        own = self._fields.audio.output if self._fields.audio is not None else None
        if own is not None and "format" in own.model_fields_set:
            return type(self._session.output_form)(own.format.type)
        return self._session.output_form

    # ---- items

    async def _begin_message(self, kind: str) -> _Output:
        if self._message is None:
            body: Json = {
                "id": new_id("item"),
                "object": "realtime.item",
                "type": "message",
                "status": "in_progress",
                "role": "assistant",
                "content": [],
            }
            item = Item(body, spoken=self._spoken() if kind == "output_audio" else None)
            self._message = await self._add(item)
            item.body["content"] = [part_of(kind, "")]
            await self._send(
                "response.content_part.added", self._message, content_index=0, part=event_part(kind, "")
            )
        return self._message

    async def _add(self, item: Item) -> _Output:
        output = _Output(item, len(self._outputs))
        self._outputs.append(output)
        await self._send("response.output_item.added", output, item=item.public())
        if self.in_conversation:
            await self._room.place(item)
        return output

    async def _send(self, kind: str, output: _Output, **members: Any) -> None:
        """Send an event about an output, unless the response was cancelled meanwhile."""
        if self._why is None:
            await self._room.send(self._about(kind, output, members))

    def _about(self, kind: str, output: _Output, members: Json) -> Json:
        item = {} if "item" in members else {"item_id": output.item.id}
        return {"type": kind, "response_id": self.id, "output_index": output.index, **item, **members}

    # ---- the end

    async def _close(self, error: RoundhouseError | None) -> None:
        whole = error is None and self._why is None
        for output in self._outputs:
            await self._close_output(output, whole=whole)
        status, details = "completed", None
        if self._why is not None and self._failure is None:
            status, details = "cancelled", {"type": "cancelled", "reason": self._why}
        elif error is not None:
            told = error.to_body()["error"]
            status, details = "failed", {"type": "failed", "error": told}
        elif (reason := _REASONS.get(self._told.finish or "")) is not None:
            status, details = "incomplete", {"type": "incomplete", "reason": reason}
        await self._room.send({"type": "response.done", "response": self._public(status, details)})

    async def _close_output(self, output: _Output, *, whole: bool) -> None:
        body = output.item.body
        body["status"] = "completed" if whole else "incomplete"
        if output.item.spoken is not None and not whole:  # no model is told of words that nobody can have heard
            output.text = output.item.spoken.text_until(output.item.spoken.milliseconds)
        closing: list[tuple[str, Json]] = []
        if body["type"] == "function_call":
            body["arguments"] = output.text
            members = {"call_id": body["call_id"], "name": body["name"], "arguments": output.text}
            closing.append(("response.function_call_arguments.done", members))
        elif output.item.spoken is not None:
            body["content"] = [part_of("output_audio", output.text)]
            closing += [
                ("response.output_audio.done", {"content_index": 0}),
                ("response.output_audio_transcript.done", {"content_index": 0, "transcript": output.text}),
                (
                    "response.content_part.done",
                    {"content_index": 0, "part": event_part("output_audio", output.text)},
                ),
            ]
        else:
            body["content"] = [part_of("output_text", output.text)]
            part = {"content_index": 0, "part": event_part("output_text", output.text)}
            closing += [
                ("response.output_text.done", {"content_index": 0, "text": output.text}),
                ("response.content_part.done", part),
            ]
        for kind, members in closing:
            await self._room.send(self._about(kind, output, members))
        output.item.size = len(output.text)
        output.closed = True
        if self.in_conversation:
            self._room.conversation.keep_within()
            previous = self._room.conversation.before(output.item)
            event: Json = {"type": "conversation.item.done", "item": output.item.public()}
            await self._room.send({**event, "previous_item_id": previous})
        await self._room.send(self._about("response.output_item.done", output, {"item": output.item.public()}))

    def _public(self, status: str, details: Json | None = None) -> Json:
        session, own = self._session.fields, self._fields
        trace = self._told.trace
        outcome = None if trace is None else self._room.context.runtime.traces.last(trace)
        told: Json = {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": details,
            "output": [output.item.public() for output in self._outputs],
            "conversation_id": self._room.conversation.id if self.in_conversation else None,
            "output_modalities": ["audio"] if self.speaks else ["text"],
            "max_output_tokens": own.max_output_tokens or session.max_output_tokens or "inf",
            "metadata": own.metadata,
            "usage": None if status == "in_progress" else usage_of(self._told.usage, outcome),
        }
        if self.speaks:
            voice = self._own_voice()
            told["audio"] = {"output": {"format": told_form(self._form().kind), "voice": voice.voice}}
        chat = self._told.chat
        if not chat and outcome is not None:  # no candidate began to answer
            chat = {"model": outcome.model, "trace": trace}
        if chat:
            told["roundhouse"] = {**chat, **self._of_voice()}
        return told

    def _of_voice(self) -> Json:
        voice = self._voice
        if voice is None or voice.model is None:
            return {}
        dropped = [name for name in voice.dropped if name != "sample_rate"]
        return {"voice_model": voice.model, **({"voice_dropped": dropped} if dropped else {})}


def _first(error: BaseException) -> RoundhouseError:
    """The error behind a group of the tasks' errors: the first that is typed."""
    while isinstance(error, BaseExceptionGroup):
        within: list[BaseException] = list(error.exceptions)
        error = next((each for each in within if isinstance(each, RoundhouseError)), within[0])
    return as_error(error)
