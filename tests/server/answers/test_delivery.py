"""How an answer is written: few writes, a watch for the client's disconnect, one timer for slow clients."""

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
    """A transport that records the data of each write."""

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


async def test_the_head_is_written_together_with_the_first_piece_of_the_body() -> None:
    wire = Wire()
    answer = HeadFirst(wire, asyncio.get_running_loop())
    answer.write(b"head ")
    answer.write(b"first")
    answer.write(b"second")
    assert wire.writes == [b"head first", b"second"]


async def test_a_head_without_a_body_is_written_in_the_next_loop_iteration() -> None:
    wire = Wire()
    answer = HeadFirst(wire, asyncio.get_running_loop())
    answer.write(b"head")
    assert wire.writes == []
    await asyncio.sleep(0)
    answer.write(b"body")
    assert wire.writes == [b"head", b"body"]


async def test_closing_writes_a_pending_head_first() -> None:
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


async def test_the_last_events_of_a_stream_are_written_together_with_its_end(
    serve: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = count_writes(monkeypatch)
    async with serve() as gateway:
        assert (await gateway.client.post(PATH, json={**BODY, "stream": True})).status_code == 200
    assert written[0].startswith(b"HTTP/1.1 200")
    assert b"data: " in written[0]
    assert written[-1].endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def count_writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Record each write of the gateway to its clients from now on."""
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
    raise AssertionError("the connection reports its loss; no message is awaited")


async def test_a_lost_connection_calls_only_the_watches_that_are_active() -> None:
    resumed: list[bool] = []
    connection = ClientConnection(lambda: resumed.append(True))
    told: list[str] = []
    staying = DisconnectWatch(scope_of(connection), never, lambda: told.append("staying"))
    done = DisconnectWatch(scope_of(connection), never, lambda: told.append("done"))
    staying.start()
    done.start()
    done.stop()
    assert resumed, "a lost connection is noticed only while it is read from"
    connection.lose()
    connection.lose()
    assert told == ["staying"]


async def test_a_watch_of_a_connection_already_lost_is_called_soon() -> None:
    connection = ClientConnection(lambda: None)
    connection.lose()
    told = asyncio.Event()
    DisconnectWatch(scope_of(connection), never, told.set).start()
    await until(told)


async def test_without_a_client_connection_the_disconnect_message_calls_the_watch() -> None:
    gone, told = asyncio.Event(), asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    leaving = DisconnectWatch(scope_of(None), receive, told.set)
    leaving.start()
    gone.set()
    await until(told)
    leaving.stop()


async def test_pipelined_requests_end_with_their_connection(serve: Start) -> None:
    async with serve() as gateway:
        gateway.dispatcher.gate = asyncio.Event()
        _, writer = await connect(gateway)
        writer.write(post(PATH, BODY) + post(PATH, BODY))
        await gateway.dispatcher.waiting.wait()
        writer.close()
        await until(gateway.dispatcher.left)


class Time:
    """The clock and timers of an event loop in virtual time."""

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
        """Advance the clock and run the timers that are due."""
        while due := [timer for timer in self.timers if timer.when() <= to]:
            first = min(due, key=asyncio.TimerHandle.when)
            self.now = max(self.now, first.when())
            self.timers.remove(first)
            first._run()
        self.now = to


def test_an_alarm_set_again_rings_at_the_later_time_with_one_timer_moved_once() -> None:
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


def test_an_alarm_set_to_an_earlier_time_rings_then() -> None:
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
