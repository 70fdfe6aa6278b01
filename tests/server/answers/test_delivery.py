"""How an answer is written: in few pieces, by tasks that are few, on a watch of its client and its pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from starlette.types import Message, Scope

from server.answers.delivery import Alarm
from server.edge.disconnect import ClientConnection, DisconnectWatch
from server.edge.uvicorn_protocol import HeadFirst
from server.scope import CONNECTION
from tests.server.api.test_chat import BODY, PATH
from tests.server.conftest import Start
from tests.server.edge.test_disconnect import connect, post, until


class Wire(asyncio.Transport):
    """A transport that keeps what each write to it held."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def test_the_head_leaves_with_the_first_of_the_body() -> None:
    wire = Wire()
    answer = HeadFirst(wire, asyncio.get_running_loop())
    answer.write(b"head ")
    answer.write(b"first")
    answer.write(b"second")
    assert wire.writes == [b"head first", b"second"]


async def test_a_head_that_nothing_follows_leaves_by_itself() -> None:
    wire = Wire()
    answer = HeadFirst(wire, asyncio.get_running_loop())
    answer.write(b"head")
    assert wire.writes == []
    await asyncio.sleep(0)
    answer.write(b"body")
    assert wire.writes == [b"head", b"body"]


async def test_closing_sends_the_head_first() -> None:
    wire = Wire()
    answer = HeadFirst(wire, asyncio.get_running_loop())
    answer.write(b"head")
    answer.close()
    await asyncio.sleep(0)
    assert wire.writes == [b"head"]
    assert answer.is_closing()


async def test_a_whole_answer_is_one_write(serve: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    written = count_writes(monkeypatch)
    async with serve() as gateway:
        assert (await gateway.client.post(PATH, json=BODY)).status_code == 200
    assert len(written) == 1


async def test_a_streams_last_events_end_it_in_the_same_write(
    serve: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = count_writes(monkeypatch)
    async with serve() as gateway:
        assert (await gateway.client.post(PATH, json={**BODY, "stream": True})).status_code == 200
    assert written[0].startswith(b"HTTP/1.1 200")
    assert b"data: " in written[0]
    assert written[-1].endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def count_writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the gateway writes to its clients from now on, write by write."""
    written: list[bytes] = []

    class Noted(asyncio.Transport):
        def __init__(self, transport: asyncio.Transport) -> None:
            self._transport = transport

        def write(self, data: bytes | bytearray | memoryview) -> None:
            written.append(bytes(data))
            self._transport.write(data)

        def writelines(self, list_of_data: Any) -> None:
            self.write(b"".join(list_of_data))

        def close(self) -> None:
            self._transport.close()

        def is_closing(self) -> bool:
            return self._transport.is_closing()

    def noted(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> HeadFirst:
        return HeadFirst(Noted(transport), loop)

    monkeypatch.setattr("server.edge.uvicorn_protocol.HeadFirst", noted)
    return written


def scope_of(connection: ClientConnection | None) -> Scope:
    return {"type": "http", **({CONNECTION: connection} if connection is not None else {})}


async def never() -> Message:
    raise AssertionError("the connection tells; nobody has to wait for a message")


async def test_a_lost_connection_calls_who_listens_and_nobody_else() -> None:
    resumed: list[bool] = []
    connection = ClientConnection(lambda: resumed.append(True))
    told: list[str] = []
    staying = DisconnectWatch(scope_of(connection), never, lambda: told.append("staying"))
    done = DisconnectWatch(scope_of(connection), never, lambda: told.append("done"))
    staying.start()
    done.start()
    done.stop()
    assert resumed, "a connection that is not read from cannot be seen to end"
    connection.lose()
    connection.lose()
    assert told == ["staying"]


async def test_who_listens_to_a_connection_that_is_lost_is_told_soon() -> None:
    connection = ClientConnection(lambda: None)
    connection.lose()
    told = asyncio.Event()
    DisconnectWatch(scope_of(connection), never, told.set).start()
    await until(told)


async def test_without_such_a_connection_the_messages_tell() -> None:
    gone, told = asyncio.Event(), asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    leaving = DisconnectWatch(scope_of(None), receive, told.set)
    leaving.start()
    gone.set()
    await until(told)
    leaving.stop()


async def test_a_request_that_waits_behind_another_ends_with_their_connection(serve: Start) -> None:
    async with serve() as gateway:
        gateway.dispatcher.gate = asyncio.Event()
        _, writer = await connect(gateway)
        writer.write(post(PATH, BODY) + post(PATH, BODY))
        await gateway.dispatcher.waiting.wait()
        writer.close()
        await until(gateway.dispatcher.left)


class Time:
    """A loop's clock and timers, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[asyncio.TimerHandle] = []
        self.made = 0

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return cast("asyncio.AbstractEventLoop", self)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self.loop)
        self.timers.append(handle)
        self.made += 1
        return handle

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self.timers.remove(handle)

    def move(self, to: float) -> None:
        """Let the time pass, and what is due ring."""
        while due := [timer for timer in self.timers if timer.when() <= to]:
            first = min(due, key=asyncio.TimerHandle.when)
            self.now = max(self.now, first.when())
            self.timers.remove(first)
            first._run()
        self.now = to


def test_an_alarm_rings_when_it_was_last_set_for_and_moves_its_timer_once() -> None:
    time, rung = Time(), list[float]()
    alarm = Alarm(time.loop)
    for second in range(9):
        time.move(float(second))
        alarm.set(10, lambda: rung.append(time.now))
    assert time.made == 1
    time.move(17.9)
    assert not rung
    time.move(40)
    assert rung == [18.0]


def test_an_alarm_that_is_set_for_sooner_rings_sooner() -> None:
    time, rung = Time(), list[str]()
    alarm = Alarm(time.loop)
    alarm.set(30, rung.append, "late")
    alarm.set(5, rung.append, "soon")
    time.move(5)
    assert rung == ["soon"]
    time.move(100)
    assert rung == ["soon"]


@pytest.mark.parametrize("for_good", [False, True])
def test_an_alarm_that_is_cleared_does_not_ring(for_good: bool) -> None:
    time, rung = Time(), list[str]()
    alarm = Alarm(time.loop)
    alarm.set(5, rung.append, "rung")
    alarm.clear(for_good=for_good)
    assert len(time.timers) == (0 if for_good else 1)
    time.move(100)
    assert not rung
