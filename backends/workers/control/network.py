"""Channels between machines: TCP, with a key in the first call, and signs of life in both directions.

A machine that loses its network closes no connection, so each side sends a note every :data:`TICK` seconds, and
gives the connection up when nothing comes from the other side. Ticks are counted as well as seconds: after a
standstill of this process, what came meanwhile is read before the peer is judged.
"""

from __future__ import annotations

import asyncio
import hmac
import ssl
from collections.abc import Callable
from contextlib import suppress

from backends.workers.control.channel import Channel
from backends.workers.control.codec import JsonValue
from catalog.errors import NotAuthenticated, RoundhouseError, Unavailable

TICK = 0.15
LEAST_TICKS = 4
SILENCE = 1.0
"""Seconds without a byte after which a peer counts as lost, where the settings name no other."""
HELLO_WITHIN = 5.0
"""Seconds in which a client must have shown the key."""
_LARGEST_HELLO = 4096

Offer = Callable[[Channel, str], None]
"""Registers the operations on the channel of a client, of which the role is given."""


class ChannelServer:
    """Accepts channels on a TCP address. ``offer`` is called with each client that showed the key."""

    def __init__(
        self, key: str, offer: Offer, *, silence: float = SILENCE, tls: ssl.SSLContext | None = None
    ) -> None:
        self._key = key
        self._offer = offer
        self._silence = silence
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._channels: dict[Channel, str] = {}
        self._pulses: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int = 0) -> int:
        """Listen; return the port, a free one for 0. Raises OSError if it cannot be bound."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, host, port, ssl=self._tls)
        return int(self._server.sockets[0].getsockname()[1])

    def connected(self, role: str) -> int:
        """Return the number of clients of this role that are connected now."""
        return sum(each == role and not channel.closed.is_set() for channel, each in self._channels.items())

    async def close(self) -> None:
        """Stop listening and close every channel."""
        if self._server is not None:
            self._server.close()
        for channel in self._channels:
            channel.close()
        for pulse in self._pulses:
            pulse.cancel()
        await asyncio.gather(*self._pulses, return_exceptions=True)

    def _accept(self) -> Channel:
        channel = Channel()
        full, channel.largest = channel.largest, _LARGEST_HELLO
        late = asyncio.get_running_loop().call_later(HELLO_WITHIN, channel.abort)

        async def hello(call: JsonValue) -> JsonValue:
            late.cancel()
            given = call.get("key") if isinstance(call, dict) else None
            if not isinstance(given, str) or not hmac.compare_digest(given.encode(), self._key.encode()):
                asyncio.get_running_loop().call_later(0.1, channel.close)
                raise NotAuthenticated("The key of this part of the cluster is wrong.")
            if channel not in self._channels:
                channel.largest = full
                self._channels[channel] = str(call.get("role", ""))
                self._offer(channel, self._channels[channel])
                pulse = asyncio.create_task(self._beat(channel), name="signs of life")
                self._pulses.add(pulse)
                pulse.add_done_callback(self._pulses.discard)
            return True

        channel.answer("hello", hello)
        return channel

    async def _beat(self, channel: Channel) -> None:
        try:
            await beat(channel, self._silence)
        finally:
            self._channels.pop(channel, None)


async def beat(channel: Channel, silence: float = SILENCE) -> None:
    """Send signs of life until the channel has closed; abort it when the peer is silent for ``silence`` seconds.

    A quarter of a second less is waited for: a loss begins between two signs, and calls are broken off within that
    time.
    """
    loop = asyncio.get_running_loop()
    silent, since = 0, loop.time()
    while not channel.closed.is_set():
        channel.tell("pulse")
        seen = channel.received
        with suppress(TimeoutError):
            async with asyncio.timeout(TICK):
                await channel.closed.wait()
        await asyncio.sleep(0)
        if channel.received != seen:
            silent, since = 0, loop.time()
            continue
        silent += 1
        if silent >= LEAST_TICKS and loop.time() - since >= silence - 0.25:
            channel.abort()
            return


async def dial(
    host: str,
    port: int,
    key: str,
    *,
    role: str,
    prepare: Callable[[Channel], None] = lambda _: None,
    seconds: float = 5.0,
    tls: ssl.SSLContext | None = None,
) -> Channel:
    """Connect a channel and show the key. ``prepare`` registers handlers before anything can come.

    The caller keeps :func:`beat` running. Raises Unavailable if no answer comes within ``seconds``, and
    NotAuthenticated.
    """
    channel = Channel()
    prepare(channel)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            await loop.create_connection(lambda: channel, host, port, ssl=tls)
            await channel.call("hello", {"key": key, "role": role})
    except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
        channel.abort()
        raise Unavailable(f"{host}:{port} of the cluster cannot be reached.", retry_after=1) from error
    except RoundhouseError:
        channel.abort()
        raise
    except asyncio.CancelledError:
        channel.abort()
        raise
    return channel
