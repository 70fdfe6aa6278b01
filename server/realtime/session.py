"""A session: what each event of its client does, and what the turns of its speaker do.

One task reads the client's events in order. A response, a transcription and the timers are tasks of the session;
it ends them with itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from catalog.errors import InvalidRequest, RateLimited, RoundhouseError
from catalog.types import Json
from server.edge.json_body import as_model
from server.realtime.beta import to_current
from server.realtime.checking import Checking
from server.realtime.configuration import Configuration, check_response
from server.realtime.context import Outlet, SessionContext, refused
from server.realtime.events import (
    SHORT,
    AudioAppend,
    ClientEvent,
    ItemCreate,
    ItemNamed,
    ItemTruncate,
    ResponseCancel,
    ResponseCreate,
    SessionUpdate,
    read_event,
)
from server.realtime.fields import ResponseFields, SemanticTurns, ServerTurns
from server.realtime.hearing.completeness import silence_for
from server.realtime.hearing.ears import Ears
from server.realtime.hearing.transcribing import Transcribing, planned_here
from server.realtime.hearing.turns import TurnChange, TurnMoment
from server.realtime.items import Item, RealtimeConversation, decode_audio, new_id, read_item, spoken_item
from server.realtime.response import ResponseRun

_ASIDE = 4
"""Responses outside of the conversation at a time."""
_AT_LEAST_MS = 100.0
"""The shortest audio that a client can commit. Source: OpenAI's error ``input_audio_buffer_commit_empty``."""


class RealtimeSession:
    """The state of one session. Created where an event loop runs; :meth:`close` ends its tasks."""

    def __init__(
        self, context: SessionContext, configuration: Configuration, outlet: Outlet, *, beta: bool = False
    ) -> None:
        self.context = context
        self.configuration = configuration
        settings = context.settings
        self.conversation = RealtimeConversation(new_id("conv"), settings.text_bytes, settings.audio_bytes)
        self._outlet = outlet
        self._beta = beta
        self._ears = Ears(configuration.input_form, longest=settings.buffer_seconds * 1000)
        self._ears.listen(configuration.listening, configuration.input_form)
        self._tasks: set[asyncio.Task[None]] = set()
        self._active: ResponseRun | None = None
        self._aside: set[ResponseRun] = set()
        self._last_spoken: Item | None = None
        self._turn_item: str | None = None
        self._early: Transcribing | None = None
        self._counted = False
        self._local_ears: bool | None = None
        self._spoken = False
        self._idle: asyncio.Task[None] | None = None
        self.turn_ended: float | None = None
        self.on_free: Callable[[], None] = lambda: None

    async def begin(self) -> None:
        """Tell the client what it is connected to."""
        await self.send({"type": "session.created", "session": self.configuration.public()})
        if self._beta:
            told = {"id": self.conversation.id, "object": "realtime.conversation"}
            await self.send({"type": "conversation.created", "conversation": told})

    async def finish(self, error: RoundhouseError) -> None:
        """End the responses that are being made, and tell of it."""
        runs = [run for run in (self._active, *self._aside) if run is not None]
        for run in runs:
            run.fail(error)
        for run in runs:
            await run.done.wait()

    async def close(self) -> None:
        """End every task."""
        tasks = [*self._tasks, *([self._idle] if self._idle is not None else [])]
        if self._early is not None:
            self._early.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def busy(self) -> bool:
        """Whether a response is being made."""
        return self._active is not None or bool(self._aside)

    async def send(self, event: Json) -> None:
        await self._outlet.send(event)

    async def handle(self, sent: Json) -> None:
        """Do what an event asks for. Raises the error that its client is told."""
        event = read_event(sent)
        await _HANDLERS[sent["type"]](self, event)

    async def place(self, item: Item, after: str | None = None) -> None:
        """Add an item to the conversation and tell of it."""
        previous = self.conversation.add(item, after)
        await self.send({"type": "conversation.item.added", "previous_item_id": previous, "item": item.public()})
        if item.body["status"] == "completed":
            await self.send(
                {"type": "conversation.item.done", "previous_item_id": previous, "item": item.public()}
            )

    # ---- the client's events

    async def _update(self, event: SessionUpdate) -> None:
        update = to_current(event.session) if self._beta else event.session
        if event.type.startswith("transcription_session"):
            update = {**update, "type": "transcription"}
        made = self.configuration.updated(update, spoken=self._spoken)
        self._checking().check(made, self.configuration)
        self.configuration = made
        self._local_ears = None
        self._ears.listen(made.listening, made.input_form)
        await self.send({"type": "session.updated", "session": made.public()})

    def _checking(self) -> Checking:
        return Checking(self.context.runtime, self.context.caller, self.context.headers)

    async def _append(self, event: AudioAppend) -> None:
        long = len(event.audio) > SHORT
        audio = (
            await asyncio.to_thread(decode_audio, event.audio, "audio")
            if long
            else decode_audio(event.audio, "audio")
        )
        async for moment in self._ears.hear(audio):
            await self._turn(moment)

    async def _commit(self, event: ClientEvent) -> None:
        del event
        if self._ears.buffer.milliseconds < _AT_LEAST_MS:
            held = self._ears.buffer.milliseconds
            raise refused(
                "input_audio_buffer_commit_empty",
                f"The input buffer has {held:.0f} ms of audio; a commit needs {_AT_LEAST_MS:.0f} ms.",
            )
        self._forget_early()
        audio = self._ears.take()
        await self._commit_audio(self._turn_item or new_id("item"), audio)
        self._turn_item = None

    async def _clear(self, event: ClientEvent) -> None:
        del event
        self._ears.clear()
        self._forget_early()
        self._turn_item, self._counted = None, False
        await self.send({"type": "input_audio_buffer.cleared"})

    async def _clear_output(self, event: ClientEvent) -> None:
        del event
        raise InvalidRequest(
            "Over a WebSocket the client plays the sound: stop it there, and send conversation.item.truncate.",
            param="type",
        )

    async def _create_item(self, event: ItemCreate) -> None:
        item = read_item(event.item)
        await self.place(item, event.previous_item_id)
        if item.audio and item.body["content"][0].get("transcript") is None:
            self._transcribe(item)

    async def _retrieve(self, event: ItemNamed) -> None:
        item = self.conversation.found(event.item_id)
        await self.send({"type": "conversation.item.retrieved", "item": item.public(audio=True)})

    async def _delete(self, event: ItemNamed) -> None:
        self.conversation.delete(event.item_id)
        await self.send({"type": "conversation.item.deleted", "item_id": event.item_id})

    async def _truncate(self, event: ItemTruncate) -> None:
        item = self.conversation.found(event.item_id)
        if item.spoken is None:
            raise InvalidRequest("Only an answer with audio can be truncated.", param="item_id")
        if event.content_index != 0:
            raise InvalidRequest("The audio is the part 0.", param="content_index")
        if event.audio_end_ms > item.spoken.milliseconds + 1:
            raise InvalidRequest(
                f"The audio has {item.spoken.milliseconds:.0f} ms; it cannot end later.", param="audio_end_ms"
            )
        await self._cut(item, float(event.audio_end_ms))

    async def _cut(self, item: Item, milliseconds: float) -> None:
        """Let an answer end where its listener stopped hearing it."""
        assert item.spoken is not None
        text = item.spoken.text_until(milliseconds)
        item.body["content"] = [{"type": "output_audio", "transcript": text}]
        item.audio = item.audio[: self.configuration.output_form.bytes_of(milliseconds)]
        item.spoken.ends_at = min(item.spoken.ends_at, self.context.clock())
        await self.send(
            {
                "type": "conversation.item.truncated",
                "item_id": item.id,
                "content_index": 0,
                "audio_end_ms": round(milliseconds),
            }
        )

    async def _create_response(self, event: ResponseCreate) -> None:
        fields = event.response or ResponseFields()
        if self._beta and event.model_extra is not None and event.response is not None:
            fields = as_model(ResponseFields, to_current(event.response.to_wire()))
        check_response(fields, self.configuration.fields)
        self._checking().check_response(fields, self.configuration)
        await self._respond(fields)

    async def _cancel(self, event: ResponseCancel) -> None:
        runs = [run for run in (self._active, *self._aside) if run is not None]
        if event.response_id is not None:
            runs = [run for run in runs if run.id == event.response_id]
        elif self._active is not None:
            runs = [self._active]
        if not runs:
            raise refused("response_cancel_not_active", "There is no response to cancel.", param="response_id")
        for run in runs:
            run.cancel("client_cancelled")

    # ---- turns

    async def _turn(self, moment: TurnMoment) -> None:
        match moment.change:
            case TurnChange.BEGAN:
                await self._turn_began(moment.at)
            case TurnChange.PAUSED:
                self._begin_early()
            case TurnChange.WENT_ON:
                self._forget_early()
            case TurnChange.ENDED:
                await self._turn_ended(moment.at)

    async def _turn_began(self, at: float) -> None:
        self._stop_idle()
        self._turn_item = new_id("item")
        turns = self.configuration.turns
        if turns is None or turns.interrupt_response:
            self._interrupt()
        await self.send(
            {
                "type": "input_audio_buffer.speech_started",
                "audio_start_ms": round(at),
                "item_id": self._turn_item,
            }
        )

    def _interrupt(self) -> None:
        """Stop what is being said, and let the answer end where it was heard."""
        item, now = self._last_spoken, self.context.clock()
        run = self._active
        if run is not None:
            run.cancel("turn_detected")
            item = run.spoken or item
        if item is None or item.spoken is None or item not in self.conversation.items:
            return
        heard = item.spoken.heard_at(now)
        if (run is None or item is not run.spoken) and heard >= item.spoken.milliseconds:
            return  # it was heard to its end, or was cut before
        item.spoken.ends_at = now
        self._spawn(self._cut_after(run, item, heard))

    async def _cut_after(self, run: ResponseRun | None, item: Item, heard: float) -> None:
        if run is not None:
            await run.done.wait()
        if item in self.conversation.items:
            await self._cut(item, heard)

    def _begin_early(self) -> None:
        """Transcribe what was said so far, in case that it is all: a model here costs nothing but its time."""
        semantic = isinstance(self.configuration.turns, SemanticTurns)
        if not semantic and not self._hears_here():
            return
        self._forget_early()
        self._early = Transcribing(self.context, self._ears.heard(), self.configuration, counted=not self._counted)
        if semantic:
            self._spawn(self._judge(self._early))

    def _hears_here(self) -> bool:
        """Whether the model that transcribes runs on this machine: the last one, or the one that is planned."""
        if self._local_ears is None:
            with suppress(RoundhouseError):
                self._local_ears = planned_here(self.context, self.configuration)
        return bool(self._local_ears)

    async def _judge(self, early: Transcribing) -> None:
        """Wait the longer for more words, the less complete those so far sound."""
        turns = self.configuration.turns
        if not isinstance(turns, SemanticTurns):
            return
        with suppress(RoundhouseError):
            wait = silence_for(await early.text(), turns.eagerness)
            if early is self._early and self._ears.detector is not None:
                self._ears.detector.wait = wait

    def _forget_early(self) -> None:
        if self._early is not None:  # a turn counts once, however often it is begun; a refusal counts nothing
            self._counted = self._counted or not isinstance(self._early.error, RateLimited)
            self._early.cancel()
            self._early = None
        listening = self.configuration.listening
        if listening is not None and self._ears.detector is not None:
            self._ears.detector.wait = listening.wait

    async def _turn_ended(self, at: float) -> None:
        item_id = self._turn_item or new_id("item")
        self._turn_item = None
        early, self._early = self._early, None
        self._forget_early()
        self.turn_ended = self.context.clock()
        await self.send(
            {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": round(at), "item_id": item_id}
        )
        audio = self._ears.take(at)
        await self._commit_audio(item_id, audio, early)
        turns = self.configuration.turns
        if turns is not None and turns.create_response and not self.configuration.transcribes:
            await self._respond(ResponseFields(), automatic=True)

    async def _commit_audio(self, item_id: str, audio: bytes, early: Transcribing | None = None) -> None:
        item = spoken_item(item_id, audio)
        before = self.conversation.items[-1].id if self.conversation.items else None
        await self.send({"type": "input_audio_buffer.committed", "previous_item_id": before, "item_id": item_id})
        await self.place(item)
        counted, self._counted = not self._counted, False
        self._transcribe(item, early, counted=counted)

    def _transcribe(self, item: Item, early: Transcribing | None = None, *, counted: bool = True) -> None:
        work = early or Transcribing(self.context, item.audio, self.configuration, counted=counted)
        told = self.configuration.transcription is not None
        item.transcribing = self._spawn(self._transcribed(item, work, told=told))

    async def _transcribed(self, item: Item, work: Transcribing, *, told: bool) -> None:
        """Follow a transcription, and tell of it if the session asks for that."""
        kind = "conversation.item.input_audio_transcription"
        place: Json = {"item_id": item.id, "content_index": 0}
        try:
            if told:
                async for delta in work.deltas():
                    await self.send({"type": f"{kind}.delta", **place, "delta": delta})
            text = await work.text()
        except RoundhouseError as error:
            item.failure = error
            self.context.on_error(error.code)
            if told:
                await self.send({"type": f"{kind}.failed", **place, "error": error.to_body()["error"]})
            return
        finally:
            if work.done is None:
                work.cancel()
        self._note_ears(work)
        item.body["content"] = [{"type": "input_audio", "transcript": text}]
        item.size = len(text)
        if told:
            await self.send({"type": f"{kind}.completed", **place, "transcript": text, "usage": work.usage()})

    def _note_ears(self, work: Transcribing) -> None:
        row = None if work.model is None else self.context.runtime.catalog.get(work.model)
        self._local_ears = row is None or row.local

    # ---- responses

    async def _respond(self, fields: ResponseFields, *, automatic: bool = False) -> None:
        if self.configuration.transcribes:
            raise InvalidRequest("A transcription session makes no responses.", param="type")
        self._stop_idle()
        if fields.conversation == "none":
            if len(self._aside) >= _ASIDE:
                raise InvalidRequest(f"At most {_ASIDE} responses outside of the conversation run at a time.")
        elif self._active is not None:
            if not self._active.cancelled:
                if automatic:
                    return
                raise refused(
                    "conversation_already_has_active_response",
                    f"The response {self._active.id} is in progress. Wait for it, or cancel it.",
                )
            await self._active.done.wait()
        run = ResponseRun(self, fields, self._input_of(fields))
        run.turn_ended = self.turn_ended if automatic else None
        if run.in_conversation:
            self._active = run
        else:
            self._aside.add(run)
        self._spawn(self._run(run))

    def _input_of(self, fields: ResponseFields) -> list[Item] | None:
        """The items of a response's own input. Raises InvalidRequest, NotFound."""
        if fields.input is None:
            return None
        found = []
        for number, sent in enumerate(fields.input):
            param = f"response.input[{number}]"
            if sent.get("type") == "item_reference":
                name = sent.get("id")
                found.append(self.conversation.found(name if isinstance(name, str) else "", param))
                continue
            item = read_item(sent, param)
            if item.audio:
                self._transcribe(item)
            found.append(item)
        return found

    async def _run(self, run: ResponseRun) -> None:
        try:
            await run.run()
        finally:
            self._aside.discard(run)
            if self._active is run:
                self._active = None
        if run.first_audio is not None:
            self._spoken = True
            if run.turn_ended is not None:
                self.context.on_reply(run.first_audio - run.turn_ended)
        if run.in_conversation and run.spoken is not None:
            self._last_spoken = run.spoken
        if run.in_conversation:
            self._start_idle()
        self.on_free()

    # ---- silence

    def _start_idle(self) -> None:
        turns = self.configuration.turns
        if isinstance(turns, ServerTurns) and turns.idle_timeout_ms is not None and self._turn_item is None:
            self._stop_idle()
            self._idle = asyncio.create_task(self._prompt_after(turns.idle_timeout_ms / 1000))

    def _stop_idle(self) -> None:
        if self._idle is not None and self._idle is not asyncio.current_task():
            self._idle.cancel()
        self._idle = None

    async def _prompt_after(self, seconds: float) -> None:
        """Commit the silence and answer it, once what was said has been played and nobody spoke for so long."""
        spoken = self._last_spoken.spoken if self._last_spoken is not None else None
        played = 0.0 if spoken is None else max(0.0, spoken.ends_at - self.context.clock())
        begin = self._ears.buffer.end + played * 1000
        await asyncio.sleep(played + seconds)
        if self._active is not None or self._turn_item is not None:
            return
        item_id = new_id("item")
        await self.send(
            {
                "type": "input_audio_buffer.timeout_triggered",
                "audio_start_ms": round(min(begin, self._ears.buffer.end)),
                "audio_end_ms": round(self._ears.buffer.end),
                "item_id": item_id,
            }
        )
        self._ears.take()
        previous = self.conversation.items[-1].id if self.conversation.items else None
        await self.send({"type": "input_audio_buffer.committed", "previous_item_id": previous, "item_id": item_id})
        await self.place(spoken_item(item_id, b"", ""))
        await self._respond(ResponseFields(), automatic=True)

    # ---- tasks

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._outlet.fail(error)


_HANDLERS: dict[str, Any] = {
    "session.update": RealtimeSession._update,
    "transcription_session.update": RealtimeSession._update,
    "input_audio_buffer.append": RealtimeSession._append,
    "input_audio_buffer.commit": RealtimeSession._commit,
    "input_audio_buffer.clear": RealtimeSession._clear,
    "output_audio_buffer.clear": RealtimeSession._clear_output,
    "conversation.item.create": RealtimeSession._create_item,
    "conversation.item.retrieve": RealtimeSession._retrieve,
    "conversation.item.truncate": RealtimeSession._truncate,
    "conversation.item.delete": RealtimeSession._delete,
    "response.create": RealtimeSession._create_response,
    "response.cancel": RealtimeSession._cancel,
}
