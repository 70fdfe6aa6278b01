"""A session's WebSocket: its events in and out, its clocks, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from secrets import token_hex
from time import time
from typing import Any, Protocol

import orjson
import structlog
from starlette.types import Receive, Send

from catalog.errors import InvalidRequest, RoundhouseError
from catalog.types import Json
from server.edge.disconnect import ClientGone
from server.edge.errors import as_error
from server.realtime.beta import to_beta
from server.realtime.context import SessionContext, refused
from server.realtime.events import SHORT, parse_event

NORMAL, GOING_AWAY, POLICY, INTERNAL, RESTART = 1000, 1001, 1008, 1011, 1012
"""Status codes of a close. Source: RFC 6455, section 7.4.1, and IANA's registry."""
MOST_INVALID = 50
"""Invalid events in a row after which a session ends."""
_LAST_SECONDS = 0.5
"""The time to tell of the end of responses, well within the grace of a server that stops."""


class ServedSession(Protocol):
    """The session of a socket: one held here, or one of a provider's."""

    on_free: Callable[[], None]

    @property
    def busy(self) -> bool:
        """Whether a response is being made."""
        ...

    async def begin(self) -> None:
        """Send the first event. Raises RoundhouseError if there is no session."""
        ...

    async def handle(self, sent: Json) -> None:
        """Do what an event asks for. Raises the error that its client is told."""
        ...

    async def finish(self, error: RoundhouseError) -> None:
        """End the responses that are being made because of ``error``, and tell of it."""
        ...

    async def close(self) -> None:
        """End every task."""
        ...


class SocketSession:
    """One session over one WebSocket, which is accepted already."""

    def __init__(
        self,
        context: SessionContext,
        receive: Receive,
        send: Send,
        *,
        beta: bool,
        send_timeout: float,
        abort: Callable[[], None],
    ) -> None:
        """``send_timeout`` is in seconds; ``abort`` closes the connection without another word."""
        self._context = context
        self._receive = receive
        self._send = send
        self._beta = beta
        self._send_timeout = send_timeout
        self._abort = abort
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[Any] | None = None
        self._why: tuple[RoundhouseError | None, int] | None = None
        self._draining = False
        self._session: ServedSession | None = None

    @property
    def key(self) -> str:
        return self._context.caller.id

    @property
    def expires_at(self) -> int:
        """When the session ends, in Unix seconds."""
        return int(time() + self._context.settings.session_seconds)

    async def serve(self, session: ServedSession) -> None:
        """Serve until either side ends it."""
        context = self._context
        self._task = asyncio.current_task()
        self._session = session
        session.on_free = self._free
        context.in_flight.sessions.add(self)
        try:
            await session.begin()
            await self._read(session)
        except RoundhouseError as error:  # there is no session
            context.on_error(error.code)
            self._why = (error, POLICY)
        except asyncio.CancelledError:
            if self._why is None or self._task is None or self._task.uncancel():
                raise
        except (ClientGone, ConnectionError):
            self._why = self._why or (None, 0)
        except TimeoutError:  # the client takes nothing any more
            self._why = (None, 0)
            self._abort()
        finally:
            context.in_flight.sessions.discard(self)
            try:
                await self._finish(session)
            finally:
                await session.close()
        await self._say_goodbye()

    async def _finish(self, session: ServedSession) -> None:
        """Let the client know how its responses end, where the connection still takes it."""
        error, code = self._why or (None, 0)
        if error is None or code == INTERNAL:
            return
        with suppress(ClientGone, RoundhouseError, TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await session.finish(error)

    # ---- as an outlet

    async def send(self, event: Json) -> None:
        """Send an event. Raises TimeoutError for a client that does not take it, ClientGone for one that left."""
        told: Json = {"event_id": f"event_{token_hex(10)}", **event}
        if self._beta:
            translated = to_beta(told)
            if translated is None:
                return
            told = translated
        text = orjson.dumps(told).decode()
        async with asyncio.timeout(self._send_timeout), self._lock:
            try:
                await self._send({"type": "websocket.send", "text": text})
            except (RuntimeError, OSError) as error:  # Starlette and uvicorn tell of a closed socket in their ways
                raise ClientGone from error

    def fail(self, error: BaseException | None) -> None:
        """End the session: one of its tasks failed, or the other side ended it."""
        if error is None:
            self._end(None, NORMAL)
            return
        if isinstance(error, ClientGone | TimeoutError | ConnectionError):
            if isinstance(error, TimeoutError):
                self._abort()
            self._end(None, 0)
            return
        typed = as_error(error)
        if typed is not error:
            structlog.get_logger().error("realtime session failed", exc_info=error)
        self._end(typed, INTERNAL)

    # ---- as a session of the server

    def drain(self) -> None:
        """End it, once its response is done."""
        self._draining = True
        if self._session is None or not self._session.busy:
            self._free()

    def abort(self, error: RoundhouseError) -> None:
        """End it at once."""
        self._end(error, RESTART)

    def _free(self) -> None:
        if self._draining:
            from server.edge.admission import draining

            self._end(draining(), RESTART)

    # ---- the client's events

    async def _read(self, session: ServedSession) -> None:
        settings, clock = self._context.settings, self._context.clock
        deadline = clock() + settings.session_seconds
        invalid = 0
        while True:
            left = deadline - clock()
            try:
                async with asyncio.timeout(max(0.0, min(left, settings.idle_seconds))):
                    message = await self._receive()
            except TimeoutError:
                if session.busy and left > settings.idle_seconds:
                    continue
                self._why = (_ended(left <= settings.idle_seconds, settings), NORMAL)
                return
            if message["type"] == "websocket.disconnect":
                self._why = (None, 0)
                return
            known: Json = {}
            try:
                text = message.get("text")
                data = message.get("bytes") or b"" if text is None else text
                known = await asyncio.to_thread(parse_event, data) if len(data) > SHORT else parse_event(data)
                await session.handle(known)
                invalid = 0
            except RoundhouseError as error:
                invalid += isinstance(error, InvalidRequest)
                self._context.on_error(error.code)
                await self.send(error_event(error, known))
            if invalid >= MOST_INVALID:
                self._why = (refused("too_many_invalid_events", "Too many events in a row were invalid."), POLICY)
                return
            await asyncio.sleep(0)  # a client that sends without a pause leaves others their turn

    def _end(self, error: RoundhouseError | None, code: int) -> None:
        if self._why is None and self._task is not None:
            self._why = (error, code)
            self._task.cancel()

    async def _say_goodbye(self) -> None:
        error, code = self._why or (None, NORMAL)
        if not code:
            return
        try:
            async with asyncio.timeout(1):
                if error is not None:
                    await self.send(error_event(error, {}))
                reason = "" if error is None else error.code
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (ClientGone, TimeoutError, RuntimeError):
            self._abort()


def error_event(error: RoundhouseError, sent: Mapping[str, Any]) -> Json:
    """The event of an error; ``event_id`` in it is the client's."""
    given = sent.get("event_id")
    told = error.to_body()["error"]
    return {"type": "error", "error": {**told, "event_id": given[:512] if isinstance(given, str) else None}}


def _ended(expired: bool, settings: Any) -> RoundhouseError:
    if expired:
        return refused(
            "session_expired", f"A session ends after {settings.session_seconds:g} seconds. Open another one."
        )
    return refused("session_idle", f"Nothing came for {settings.idle_seconds:g} seconds (realtime.idle_seconds).")
