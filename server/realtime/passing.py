"""Sessions that a provider has itself: its events pass through, and each response counts as a request of its own.

The connection is one job, which lasts as long as the session. For every ``response.created`` of the provider
another job is opened, whose items are that response's events: the key's limits, caps on spend, traces and metrics
hold for it as for a chat. A response that they refuse is cancelled at the provider, and the client is told why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from backends.wire.audio import RealtimeLink, RealtimeRequest, RealtimeTurn
from catalog.errors import InvalidRequest, NotPermitted, RoundhouseError
from catalog.types import Json
from routing.calling.answer import Answer
from server.jobs import realtime_job, realtime_turn_job
from server.realtime.context import Outlet, SessionContext
from server.storage.provider_objects import refuse_addresses, refuse_objects

_WAITING = 256
"""Events of a response that its job has not seen yet."""
_FORWARDED = frozenset(
    {
        "session.update",
        "transcription_session.update",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
        "output_audio_buffer.clear",
        "conversation.item.create",
        "conversation.item.retrieve",
        "conversation.item.truncate",
        "conversation.item.delete",
        "response.create",
        "response.cancel",
    }
)


class PassedSession:
    """One session at a provider; as :class:`server.realtime.session.RealtimeSession` for its socket."""

    def __init__(self, context: SessionContext, sent: Json, outlet: Outlet, *, transcribes: bool) -> None:
        """``sent`` is what the caller configured before the session: by a client secret, for instance."""
        self._context = context
        self._sent = sent
        self._outlet = outlet
        self._transcribes = transcribes
        self._link: RealtimeLink | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns: dict[str, asyncio.Queue[Json | None]] = {}
        self._counting: set[asyncio.Task[None]] = set()
        self._model = "auto"
        self._prompt = 0
        self.on_free: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        return bool(self._turns)

    async def begin(self) -> None:
        """Connect, and pass the first event on. Raises what opening the job raises."""
        self._task = task = asyncio.create_task(self._run())
        await asyncio.wait({task, self._ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and (error := task.exception()) is not None:
            raise error
        task.add_done_callback(self._ended)

    async def handle(self, sent: Json) -> None:
        """Pass an event on. Raises InvalidRequest for one that this API lacks, and for a provider's objects."""
        kind = sent.get("type")
        if kind not in _FORWARDED:
            raise InvalidRequest(
                f"There is no event of this type. The types are {', '.join(sorted(_FORWARDED))}.", param="type"
            )
        check_event(self._context, sent)
        assert self._link is not None
        if isinstance(session := sent.get("session"), dict):  # the provider's name of the model is another
            sent = {**sent, "session": {name: value for name, value in session.items() if name != "model"}}
        await self._link.send(sent)

    async def finish(self, error: RoundhouseError) -> None:
        """Cancel the responses at the provider, which tells of their end."""
        del error
        for name in tuple(self._turns):
            assert self._link is not None
            with suppress(RoundhouseError):
                await self._link.send({"type": "response.cancel", "response_id": name})
        if self._counting:
            await asyncio.wait(self._counting)

    async def close(self) -> None:
        tasks = [*self._counting, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ready.cancel()

    async def _run(self) -> None:
        context = self._context
        named = self._sent.get("model")
        body, origin = context.asked(
            RealtimeRequest(model=named if isinstance(named, str) else "auto", transcribes=self._transcribes)
        )
        async with context.open_idle(realtime_job(body, origin), origin.caller) as answer:
            first = await anext(aiter(answer))
            self._link, self._model = body.link, answer.model.id
            if configuration := {name: value for name, value in self._sent.items() if name != "model"}:
                await self._link.send({"type": "session.update", "session": configuration})
            await self._outlet.send(_told(first, answer))
            self._ready.set_result(None)
            async for event in self._link.events():
                await self._pass(event)

    async def _pass(self, event: Json) -> None:
        response = _object(event, "response")
        name = str(response.get("id") or event.get("response_id") or "")
        if event["type"] == "response.created":
            self._count(name, response.get("max_output_tokens"))
        if (queue := self._turns.get(name)) is not None:
            with suppress(asyncio.QueueFull):  # only the last event matters, for which there is always room
                if event["type"] == "response.done" or queue.qsize() < _WAITING:
                    queue.put_nowait(dict(event))
        if event["type"] == "response.done":
            usage = response.get("usage")
            if isinstance(usage, dict) and isinstance(usage.get("total_tokens"), int):
                self._prompt = max(0, usage["total_tokens"])
        await self._outlet.send(event)

    def _count(self, name: str, most: object) -> None:
        self._turns[name] = asyncio.Queue(_WAITING + 2)
        task = asyncio.create_task(self._turn(name, most if isinstance(most, int) else None))
        self._counting.add(task)
        task.add_done_callback(self._counted)

    async def _turn(self, name: str, most: int | None) -> None:
        """Account for one response, from its beginning to its end."""
        context = self._context
        try:
            turn = RealtimeTurn(model=self._model, most=most, prompt_tokens=self._prompt)
            body, origin = context.asked(turn.fed_by(self._events_of(name)))
            async with context.open(realtime_turn_job(body, origin), origin.caller) as answer:
                async for _ in answer:
                    pass
        except RoundhouseError as error:
            assert self._link is not None
            context.on_error(error.code)
            with suppress(RoundhouseError):
                await self._link.send({"type": "response.cancel", "response_id": name})
            await self._outlet.send(
                {"type": "error", "error": {**error.to_body()["error"], "event_id": None, "response_id": name}}
            )
        finally:
            self._turns.pop(name, None)
            self.on_free()

    async def _events_of(self, name: str) -> AsyncIterator[Json]:
        queue = self._turns[name]
        while True:
            event = await queue.get()
            assert event is not None
            yield event
            if event["type"] == "response.done":
                return

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._outlet.fail(task.exception())

    def _counted(self, task: asyncio.Task[None]) -> None:
        self._counting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._outlet.fail(error)


def check_event(context: SessionContext, sent: Json) -> None:
    """Keep a caller from the provider's account, which all keys share.

    Raises NotPermitted for tools that act there, InvalidRequest for objects of a provider's that the caller may
    not name, and for addresses of a private network.
    """
    refuse_addresses(context.runtime.storage, context.caller, _object(sent, "item"))
    if context.caller.admin:
        return
    for part in (_object(sent, "session"), _object(sent, "response")):
        refuse_objects(context.runtime.storage, context.caller, part)
        tools = part.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            if isinstance(tool, dict) and tool.get("type") == "mcp" and tool.get("connector_id"):
                raise NotPermitted("A connector acts for the provider's account, which all keys share.")


def _object(holder: Json, name: str) -> Json:
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def _told(first: Json, answer: Answer[Json]) -> Json:
    """The provider's first event, which also tells of the choice."""
    session = first.get("session")
    if not isinstance(session, dict):
        return first
    choice = {name.removeprefix("x-roundhouse-"): value for name, value in answer.headers().items()}
    return {**first, "session": {**session, "roundhouse": choice}}
