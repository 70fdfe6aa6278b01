"""Sends a relay's data in the request's own task, watching for disconnects and slow clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sse_starlette.sse import SendTimeoutError
from starlette.types import Message, Receive, Scope, Send

from server.answers.relay import Relay
from server.edge.disconnect import DisconnectWatch


async def deliver(
    relay: Relay[Any],
    head: Message,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    send_timeout: float,
    ping: tuple[float, bytes] | None = None,
) -> None:
    """Send ``head``, then all of ``relay``; the relay is cancelled when the client disconnects.

    ``ping`` is the seconds without data after which to send its bytes. Raises SendTimeoutError when the
    client takes nothing for ``send_timeout`` seconds, and ResponseCut.
    """
    task = asyncio.current_task()
    assert task is not None
    too_slow = False

    def give_up() -> None:
        nonlocal too_slow
        too_slow = True
        task.cancel()

    alarm = Alarm(asyncio.get_running_loop())
    leaving = DisconnectWatch(scope, receive, relay.cancel)
    leaving.start()
    try:
        message, more = head, True
        while True:
            alarm.set(send_timeout, give_up)
            await send(message)
            if not more:
                return
            if ping is None:
                alarm.clear()
            else:
                alarm.set(ping[0], relay.interject, ping[1])
            data, more = await relay.take()
            message = {"type": "http.response.body", "body": data, "more_body": more}
    except asyncio.CancelledError:
        if not too_slow or task.uncancel():
            raise
        raise SendTimeoutError from None
    finally:
        alarm.clear(for_good=True)
        leaving.stop()
        relay.cancel()


class Alarm:
    """A timer that is set for every piece of a stream and rarely fires.

    Moving the loop's timer for each piece would cost more than the piece. Instead, a timer that fires early is set
    again for the rest of the time.
    """

    __slots__ = ("_arguments", "_due", "_loop", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._ring: Callable[..., None] | None = None
        self._arguments: tuple[Any, ...] = ()

    def set(self, seconds: float, ring: Callable[..., None], *arguments: Any) -> None:
        """Call ``ring`` in ``seconds``, replacing what was set before."""
        self._due = self._loop.time() + seconds
        self._ring, self._arguments = ring, arguments
        timer = self._timer
        if timer is None:
            self._timer = self._loop.call_at(self._due, self._early_or_due)
        elif timer.when() > self._due:
            timer.cancel()
            self._timer = self._loop.call_at(self._due, self._early_or_due)

    def clear(self, *, for_good: bool = False) -> None:
        """Cancel what was set."""
        self._ring = None
        if for_good and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _early_or_due(self) -> None:
        self._timer = None
        if self._ring is None:
            return
        if self._due > self._loop.time():
            self._timer = self._loop.call_at(self._due, self._early_or_due)
            return
        ring, self._ring = self._ring, None
        ring(*self._arguments)
