"""Accounts for the responses of a session that a provider has: each is a job of its own.

A response that the client asks for is admitted before the provider is asked. One that the provider begins by
itself, after a turn of the speaker, is admitted before the client hears of it; a refused one is cancelled, and
booked by what the provider bills for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from backends.wire.audio import RealtimeTurn
from catalog.errors import RoundhouseError, StreamBroken
from catalog.types import Json
from routing.calling.watching.observers import RealtimeObserver
from server.callers import Origin
from server.jobs import realtime_turn_job
from server.realtime.context import SessionContext
from server.runtime import Books


@dataclass(eq=False, slots=True)
class PassedTurn:
    """One response: ``events`` are those that its job has not seen, and None ends them.

    ``asked_as`` is the client's id of the event that asked for it.
    """

    opened: asyncio.Future[None]
    asked_as: object = None
    events: asyncio.Queue[Json | None] = field(default_factory=asyncio.Queue)
    broken: bool = False

    async def fed(self) -> AsyncIterator[Json]:
        """The events up to ``response.done``. Raises StreamBroken if the provider's connection broke."""
        while (event := await self.events.get()) is not None:
            yield event
            if event["type"] == "response.done":
                return
        if self.broken:
            raise StreamBroken("The provider closed the connection within a response.")


@dataclass(eq=False, slots=True)
class RefusedTurn:
    """A response of the provider's own accord that a limit refuses. ``items`` are the ids of its items."""

    error: RoundhouseError
    seen: RealtimeObserver = field(default_factory=RealtimeObserver)
    items: set[str] = field(default_factory=set)


class PromptLength:
    """Estimates the tokens that a session's next response has to read."""

    def __init__(self) -> None:
        self._before = 0
        self._new = 0.0
        self._uncommitted = 0.0
        self._began = 0.0
        self._turn = 0.0

    @property
    def tokens(self) -> int:
        return self._before + round(self._new)

    def note_sent(self, sent: Json) -> None:
        """Note an event of the client."""
        match sent.get("type"):
            case "input_audio_buffer.append":
                self._uncommitted += _sound_tokens(sent.get("audio"))
            case "input_audio_buffer.clear":
                self._uncommitted = 0.0
            case "conversation.item.create" | "session.update" | "response.create":
                self._new += _read_tokens({name: part for name, part in sent.items() if isinstance(part, dict)})

    def note_told(self, event: Json) -> None:
        """Note an event of the provider."""
        match event:
            case {"type": "input_audio_buffer.speech_started", "audio_start_ms": int(at)}:
                self._began = at
            case {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": int(at)}:
                self._turn = max(0.0, at - self._began) / _MS_PER_TOKEN
            case {
                "type": "input_audio_buffer.committed"
            }:  # of a turn the speech alone, without the silence before
                self._new += self._turn or self._uncommitted
                self._turn = self._uncommitted = 0.0
            case {"type": "response.done", "response": {"usage": {"total_tokens": int(total)}}}:
                self._before, self._new = max(0, total), 0.0


_MS_PER_TOKEN = 100
"""Milliseconds of a speaker's sound that are a token. Source: OpenAI's guide, "Realtime costs"."""
_BYTES_PER_TOKEN = 4800
"""Of pcm at 24 kHz, the form with the most bytes."""


def _sound_tokens(audio: object) -> float:
    return len(audio) * 0.75 / _BYTES_PER_TOKEN if isinstance(audio, str) else 0.0


def _read_tokens(value: Any) -> float:
    """About the tokens of texts and of sound within parts of an event."""
    if isinstance(value, dict):
        return sum(
            _sound_tokens(part) if name in ("audio", "image_url") else _read_tokens(part)
            for name, part in value.items()
        )
    if isinstance(value, list):
        return sum(_read_tokens(part) for part in value)
    return len(value) / 4 if isinstance(value, str) else 0.0


class PassedTurns:
    """The responses of one session."""

    def __init__(self, context: SessionContext, on_end: Callable[[], None]) -> None:
        """``on_end`` is called whenever a response has ended."""
        self._context = context
        self._on_end = on_end
        self._asked: OrderedDict[str, PassedTurn] = OrderedDict()
        self._running: dict[str, PassedTurn] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.model = "auto"
        self.routing: Json = {}
        """``routing`` and ``strict`` of the session, as a body has them."""

    @property
    def names(self) -> tuple[str, ...]:
        """The ids of the responses in progress."""
        return tuple(self._running)

    @property
    def busy(self) -> bool:
        return bool(self._asked or self._running)

    async def ask(self, event_id: str, sent: Json, *, most: int | None, prompt: int) -> None:
        """Admit a response that the client asks for with an event. Raises what refuses it."""
        self._asked[event_id] = turn = await self._open(sent, most, prompt)
        turn.asked_as = sent.get("event_id")

    def give_up(self, event_id: str) -> PassedTurn | None:
        """End a response that the provider did not begin."""
        if (turn := self._asked.pop(event_id, None)) is not None:
            turn.events.put_nowait(None)
        return turn

    async def begin(self, name: str, event: Json, *, most: int | None, prompt: int) -> None:
        """Count a response that the provider has begun: the first that was asked for, else one of its own.

        Raises what refuses the latter.
        """
        if self._asked:
            _, turn = self._asked.popitem(last=False)
        else:
            turn = await self._open(event, most, prompt)
        self._running[name] = turn
        turn.events.put_nowait(dict(event))

    def see(self, name: str, event: Json) -> None:
        """Note an event of a response."""
        if (turn := self._running.get(name)) is not None:
            turn.events.put_nowait(dict(event))
            if event["type"] == "response.done":
                del self._running[name]

    def book(self, seen: RealtimeObserver, *, prompt: int) -> None:
        """Book a refused response by what the provider told of it."""
        context = self._context
        body = RealtimeTurn(model=self.model, prompt_tokens=prompt)
        job = realtime_turn_job(body, Origin(context.caller, token_hex(16), {}, None))
        dispatcher = context.runtime.dispatcher
        assert isinstance(dispatcher, Books)
        dispatcher.book(job, seen.usage, seen.streamed)

    def broke(self) -> None:
        """End every response: the provider's connection is closed."""
        for turn in (*self._asked.values(), *self._running.values()):
            turn.broken = True
            turn.events.put_nowait(None)

    async def wait(self) -> None:
        """Wait until every response has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """End every response; one in progress is booked by what came of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _open(self, first: Json, most: int | None, prompt: int) -> PassedTurn:
        turn = PassedTurn(asyncio.get_running_loop().create_future())
        turn.events.put_nowait({"type": "response.create", "event_id": first.get("event_id")})
        task = asyncio.create_task(self._account(turn, most, prompt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait({task, turn.opened}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done() and (error := task.exception()) is not None:
            raise error
        return turn

    async def _account(self, turn: PassedTurn, most: int | None, prompt: int) -> None:
        """Run the job of one response. Raises what refuses it."""
        context = self._context
        asked = RealtimeTurn(model=self.model, most=most, prompt_tokens=prompt, **self.routing)
        body, origin = context.asked(asked.fed_by(turn.fed()))
        try:
            # The first event is the request itself: the job opens, and is within its limits, before the answer.
            async with context.open(realtime_turn_job(body, origin), origin.caller) as answer:
                turn.opened.set_result(None)
                async for _ in answer:
                    pass
        except RoundhouseError:
            if not turn.opened.done():
                raise
        finally:
            turn.opened.cancel()
            self._on_end()
