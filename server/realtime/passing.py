"""Sessions that a provider has itself: its events pass through, and each response counts as a request of its own.

The connection is one job, which lasts as long as the session. Every response is another
(:mod:`server.realtime.passed_turns`): the key's limits, caps on spend, traces and metrics hold for it as for any.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from secrets import token_hex

from backends.wire.audio import RealtimeLink, RealtimeRequest
from catalog.errors import InvalidRequest, NotPermitted, RoundhouseError
from catalog.types import Json
from routing.calling.answer import Answer
from routing.calling.dispatcher import nothing_left
from server.jobs import permitted, realtime_job
from server.realtime.context import Outlet, SessionContext
from server.realtime.passed_turns import PassedTurns, PromptLength, RefusedTurn
from server.storage.provider_objects import refuse_addresses, refuse_objects

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
_SPOKEN = ("input_audio_buffer.append", "input_audio_buffer.commit")
_OURS = ("routing", "strict")
"""Members of a session that are ours, and no provider's."""


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
        self._turns = PassedTurns(context, lambda: self.on_free())
        self._refused: dict[str, RefusedTurn] = {}
        self._hidden: set[str] = set()
        self._prompt = PromptLength()
        self._most: int | None = None
        self._deaf: tuple[float, RoundhouseError] | None = None
        self.on_free: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        return self._turns.busy

    async def begin(self) -> None:
        """Connect, and pass the first event on. Raises what opening the job raises."""
        self._task = task = asyncio.create_task(self._run())
        await asyncio.wait({task, self._ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and (error := task.exception()) is not None:
            raise error
        task.add_done_callback(self._ended)

    async def handle(self, sent: Json) -> None:
        """Pass an event on.

        Raises InvalidRequest for one that this API lacks, and for a provider's objects; for a response what
        refuses a request, and for a session the error of a ``routing`` that its model does not meet.
        """
        kind = sent.get("type")
        if kind not in _FORWARDED:
            raise InvalidRequest(
                f"There is no event of this type. The types are {', '.join(sorted(_FORWARDED))}.", param="type"
            )
        if kind in _SPOKEN and self._deaf is not None and self._context.clock() < self._deaf[0]:
            # The provider would answer, and bill, a turn that a limit refuses; the client was told when it began.
            if kind == "input_audio_buffer.append":
                return
            raise self._deaf[1]
        check_event(self._context, sent)
        if isinstance(session := sent.get("session"), dict):
            sent = {**sent, "session": self._configured(session)}
        if kind == "response.create":
            await self._create_response(sent)
        else:
            await self._send(sent)

    async def finish(self, error: RoundhouseError) -> None:
        """Cancel the responses at the provider, which tells of their end."""
        del error
        for name in self._turns.names:
            with suppress(RoundhouseError):
                await self._send({"type": "response.cancel", "response_id": name})
        await self._turns.wait()

    async def close(self) -> None:
        for refused in self._refused.values():
            self._turns.book(refused.seen, prompt=self._prompt.tokens)
        self._refused.clear()
        await self._turns.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._ready.cancel()

    async def _send(self, event: Json) -> None:
        assert self._link is not None
        self._prompt.note_sent(event)
        await self._link.send(event)

    async def _create_response(self, sent: Json) -> None:
        """Ask the provider for a response that is within the limits."""
        own = _object(sent, "response").get("max_output_tokens")
        name = f"event_{token_hex(10)}"
        most = own if isinstance(own, int) else self._most
        await self._turns.ask(name, sent, most=most, prompt=self._prompt.tokens)
        try:
            await self._send({**sent, "event_id": name})
        except BaseException:
            self._turns.give_up(name)
            raise

    def _configured(self, session: Json) -> Json:
        """The part of a configuration that is the provider's.

        Raises InvalidRequest for another model, and the error of a request for ``routing`` that excludes it.
        """
        context, asked = self._context, session.get("model")
        if asked is not None and asked != self._sent.get("model"):
            named = context.runtime.catalog.get(asked) if isinstance(asked, str) else None
            if named is None or named.id != self._turns.model:
                raise InvalidRequest(
                    "A session's model cannot change: open another session.", param="session.model"
                )
        if ours := {name: session[name] for name in _OURS if name in session}:
            self._route({**self._turns.routing, **ours})
        return {name: value for name, value in session.items() if name != "model" and name not in _OURS}

    def _route(self, routing: Json) -> None:
        """Bind the session's responses to ``routing`` and ``strict``. Raises the error of a request by them."""
        context = self._context
        body, origin = context.asked(RealtimeRequest(model=self._turns.model, **routing))
        facts = permitted(realtime_job(body, origin).facts, origin.caller, context.runtime.catalog)
        plan = context.runtime.dispatcher.explain(facts)
        if not plan.candidates:
            raise nothing_left(plan, facts)
        self._turns.routing = routing

    async def _run(self) -> None:
        context = self._context
        named = self._sent.get("model")
        ours = {name: self._sent[name] for name in _OURS if name in self._sent}
        body, origin = context.asked(
            RealtimeRequest(
                model=named if isinstance(named, str) else "auto", transcribes=self._transcribes, **ours
            )
        )
        job = replace(realtime_job(body, origin), counted=False)
        try:
            async with context.open_idle(job, origin.caller) as answer:
                first = await anext(aiter(answer))
                self._link, self._turns.model, self._turns.routing = body.link, answer.model.id, ours
                self._note_session(first)
                if configuration := self._configured(self._sent):
                    await self._send({"type": "session.update", "session": configuration})
                await self._outlet.send(_told(first, answer))
                self._ready.set_result(None)
                async for event in self._link.events():
                    await self._pass(event)
        finally:
            self._turns.broke()

    async def _pass(self, event: Json) -> None:
        """Tell the client of an event, once its response is admitted."""
        kind, response = event["type"], _object(event, "response")
        name = str(response.get("id") or event.get("response_id") or "")
        if kind == "response.created":
            most = response.get("max_output_tokens")
            try:
                await self._turns.begin(
                    name, event, most=most if isinstance(most, int) else None, prompt=self._prompt.tokens
                )
            except RoundhouseError as error:
                await self._refuse(name, event, error)
                return
        elif (refused := self._refused.get(name)) is not None:
            await self._pass_refused(name, refused, event)
            return
        elif not self._hidden.isdisjoint((event.get("item_id"), _object(event, "item").get("id"))):
            return
        elif kind == "error":
            event = self._own_error(event)
        self._turns.see(name, event)
        self._note_session(event)
        self._prompt.note_told(event)
        await self._outlet.send(event)

    async def _refuse(self, name: str, event: Json, error: RoundhouseError) -> None:
        """Cancel a response that the provider began by itself, and hear no more until there may be room."""
        self._context.on_error(error.code)
        self._refused[name] = refused = RefusedTurn(error)
        refused.seen.see(event)
        rest = math.inf if error.retry_after is None else error.retry_after
        self._deaf = self._context.clock() + rest, error
        with suppress(RoundhouseError):
            await self._send({"type": "response.cancel", "response_id": name})
        await self._outlet.send(event)
        told = {**error.to_body()["error"], "event_id": None, "response_id": name}
        await self._outlet.send({"type": "error", "error": told})

    async def _pass_refused(self, name: str, refused: RefusedTurn, event: Json) -> None:
        """Keep what comes of a refused response from the client; book it at its end, and have it forgotten."""
        refused.seen.see(event)
        if event["type"] == "response.output_item.added":
            item = _object(event, "item").get("id")
            if isinstance(item, str):
                refused.items.add(item)
                self._hidden.add(item)
        if event["type"] != "response.done":
            return
        del self._refused[name]
        self._turns.book(refused.seen, prompt=self._prompt.tokens)
        details = {"type": "failed", "error": refused.error.to_body()["error"]}
        response = {**event["response"], "status": "failed", "status_details": details, "output": []}
        await self._outlet.send({**event, "response": response})
        for item in refused.items:
            with suppress(RoundhouseError):
                await self._send({"type": "conversation.item.delete", "item_id": item})
        self.on_free()

    def _note_session(self, event: Json) -> None:
        if isinstance(session := event.get("session"), dict):
            most = session.get("max_output_tokens")
            self._most = most if isinstance(most, int) else None

    def _own_error(self, event: Json) -> Json:
        """The error of an event with the id that the client gave it; a refused response ends."""
        error = _object(event, "error")
        name = error.get("event_id")
        turn = self._turns.give_up(name) if isinstance(name, str) else None
        return event if turn is None else {**event, "error": {**error, "event_id": turn.asked_as}}

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._outlet.fail(task.exception())


def check_event(context: SessionContext, sent: Json) -> None:
    """Keep a caller from the provider's account, which all keys share.

    Raises NotPermitted for tools that act there, InvalidRequest for objects of a provider's that the caller may
    not name, and for addresses of a private network.
    """
    storage, caller = context.runtime.storage, context.caller
    refuse_addresses(storage, caller, _object(sent, "item"), _object(sent, "response").get("input"))
    refuse_addresses(storage, caller, *({"url": address} for address in _servers(sent)))
    if caller.admin:
        return
    refuse_objects(storage, caller, _object(sent, "item"))
    for part in (_object(sent, "session"), _object(sent, "response")):
        refuse_objects(storage, caller, part)
        tools = part.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            if isinstance(tool, dict) and tool.get("type") == "mcp" and tool.get("connector_id"):
                raise NotPermitted("A connector acts for the provider's account, which all keys share.")


def _servers(sent: Json) -> Iterator[str]:
    """The addresses of the tools' own servers."""
    for part in (_object(sent, "session"), _object(sent, "response")):
        tools = part.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            if isinstance(tool, dict) and isinstance(address := tool.get("server_url"), str):
                yield address


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
