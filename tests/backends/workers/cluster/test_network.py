"""Channels between machines: the key, and a peer that falls silent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backends.workers.control.channel import Channel
from backends.workers.control.network import SILENCE, ChannelServer, beat, dial
from catalog.errors import NotAuthenticated, Unavailable


def echo(channel: Channel, _: str) -> None:
    async def same(value: Any) -> Any:
        return value

    channel.answer("echo", same)


async def test_a_channel_with_the_key_carries_calls() -> None:
    server = ChannelServer("right", echo)
    port = await server.start("127.0.0.1")
    channel = await dial("127.0.0.1", port, "right", role="gateway")
    assert await channel.call("echo", {"a": 1}) == {"a": 1}
    assert server.connected("gateway") == 1
    channel.close()
    await server.close()


async def test_a_wrong_key_opens_nothing() -> None:
    server = ChannelServer("right", echo)
    port = await server.start("127.0.0.1")
    with pytest.raises(NotAuthenticated):
        await dial("127.0.0.1", port, "wrong", role="gateway")
    assert server.connected("gateway") == 0
    await server.close()


async def test_without_the_key_a_client_can_send_no_more_than_a_greeting() -> None:
    server = ChannelServer("right", echo)
    port = await server.start("127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x" * 10_000)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await server.close()


async def test_an_address_without_a_server_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await dial("127.0.0.1", 1, "key", role="gateway", seconds=1)


async def test_a_peer_that_falls_silent_is_given_up_within_a_second() -> None:
    taken: list[asyncio.StreamWriter] = []

    async def greet_and_be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"done":1,"value":true}\n')
        taken.append(writer)
        await asyncio.sleep(60)

    server = await asyncio.start_server(greet_and_be_silent, "127.0.0.1", 0)
    channel = await dial("127.0.0.1", server.sockets[0].getsockname()[1], "key", role="gateway")
    began = asyncio.get_running_loop().time()
    await beat(channel)
    await channel.closed.wait()
    assert asyncio.get_running_loop().time() - began < SILENCE + 0.5
    for writer in taken:
        writer.close()
    server.close()
