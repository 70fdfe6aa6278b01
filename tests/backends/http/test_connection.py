"""One connection: an answer reads the same however its bytes are cut, and bytes that are not one are refused."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.http.connection import HIGH_WATER, MAX_HEAD, Connection, ConnectionLost, NotHttp, request_head


class Wire(asyncio.Transport):
    """The transport of a connection, driven by a test."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.sent = b""
        self.reading = True
        self.closed = False
        self.aborted = False
        self.connection = connection
        connection.connection_made(self)

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def hang_up(self, error: Exception | None = None) -> None:
        self.connection.connection_lost(error)


def connected() -> tuple[Connection, Wire]:
    """A connection on which a request was sent."""
    connection = Connection(asyncio.get_running_loop())
    wire = Wire(connection)
    connection.send(request_head("GET", "/", {"host": "x"}, None), None)
    return connection, wire


async def read(connection: Connection) -> bytes:
    body = b""
    while True:
        body += connection.take()
        if connection.at_end:
            return body
        await connection.wait()


OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "counted": (OK + b"Content-Length: 5\r\nX-A: 1\r\nx-a: 2\r\n\r\nhello", b"hello"),
    "chunked": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nX-T: 1\r\n\r\n",
        b"hello",
    ),
    "interim": (b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    "empty": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
}


@pytest.mark.parametrize("name", ANSWERS)
@given(cuts=st.sets(st.integers(1, 90)))
def test_an_answer_is_the_same_wherever_it_is_cut(name: str, cuts: set[int]) -> None:
    raw, body = ANSWERS[name]

    async def run() -> None:
        connection, wire = connected()
        edges = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
        for start, end in pairwise(edges):
            connection.data_received(raw[start:end])
        await connection.read_head()
        assert await read(connection) == body
        assert "link" not in connection.headers
        assert "x-t" not in connection.headers
        assert connection.finish()
        assert not wire.closed

    asyncio.run(run())


async def test_headers_have_names_in_lower_case_and_are_joined_when_they_come_twice() -> None:
    connection, _ = connected()
    connection.data_received(ANSWERS["counted"][0])
    assert connection.headers == {"content-length": "5", "x-a": "1, 2"}


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    connection, wire = connected()
    connection.data_received(OK + b"\r\nhel")
    connection.data_received(b"lo")
    assert not connection.at_end
    wire.hang_up()
    assert await read(connection) == b"hello"
    assert not connection.finish(), "it cannot be used again"


@pytest.mark.parametrize(
    ("part", "begun"),
    [
        (b"", False),
        (b"HTTP/1.1 2", True),
        (OK + b"Content-Length: 5\r\n\r\nhel", True),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", True),
    ],
)
async def test_an_answer_that_is_cut_short_says_whether_it_had_begun(part: bytes, begun: bool) -> None:
    connection, wire = connected()
    if part:
        connection.data_received(part)
    wire.hang_up(ConnectionResetError())
    with pytest.raises(ConnectionLost) as lost:
        await connection.read_head()
        await read(connection)
    assert lost.value.begun is begun


async def test_a_body_without_a_length_whose_connection_breaks_is_cut_short() -> None:
    connection, wire = connected()
    connection.data_received(OK + b"\r\nhel")
    wire.hang_up(ConnectionResetError())
    with pytest.raises(ConnectionLost):
        await read(connection)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        OK + b"X-Long: " + b"a" * (MAX_HEAD + 1) + b"\r\n\r\n",
        OK + b"X: 1\r\n" * (MAX_HEAD // 6 + 1) + b"\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["not http", "two lengths", "length and chunked", "upgrade", "long header", "many headers", "bad chunk"],
)
async def test_bytes_that_are_not_an_answer_are_refused_and_the_connection_ended(raw: bytes) -> None:
    connection, wire = connected()
    connection.data_received(raw)
    with pytest.raises(NotHttp):
        await connection.read_head()
        await read(connection)
    assert wire.aborted
    assert not connection.finish()


@pytest.mark.parametrize("more", [b"x", ANSWERS["counted"][0]], ids=["garbage", "another answer"])
async def test_bytes_after_the_answer_are_not_taken_for_the_next_one(more: bytes) -> None:
    raw, body = ANSWERS["counted"]
    for together in (True, False):
        connection, wire = connected()
        connection.data_received(raw + more if together else raw)
        assert await read(connection) == body
        if not together:
            assert connection.finish()
            connection.data_received(more)
        assert not connection.finish()
        assert together or wire.aborted


@pytest.mark.parametrize("head", [b"Connection: close\r\nContent-Length: 0\r\n\r\n", b"\r\n"])
async def test_a_peer_that_closes_is_not_asked_again(head: bytes) -> None:
    connection, _ = connected()
    connection.data_received(OK + head)
    assert not connection.finish()


async def test_a_peer_that_has_closed_its_side_is_not_asked_again_though_the_transport_is_still_open() -> None:
    connection, wire = connected()
    connection.data_received(ANSWERS["counted"][0])
    connection.eof_received()
    assert not wire.is_closing(), "as over TLS, until the shutdown is over"
    assert not connection.alive
    assert not connection.can_send()
    assert not connection.finish()


async def test_an_answer_that_is_left_unread_ends_its_connection() -> None:
    connection, _ = connected()
    connection.data_received(OK + b"Content-Length: 5\r\n\r\nhel")
    assert not connection.finish()


async def test_a_slow_reader_makes_the_upstream_wait() -> None:
    connection, wire = connected()
    connection.data_received(OK + b"\r\n")
    while wire.reading:
        connection.data_received(b"x" * 65536)
    assert len(connection.take()) <= HIGH_WATER + 65536
    assert wire.reading


@pytest.mark.parametrize("evil", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b"])
def test_a_header_cannot_smuggle_another_one_in(evil: str) -> None:
    for headers in ({"x": evil}, {evil: "x"}):
        with pytest.raises(ValueError, match="line end"):
            request_head("GET", "/", headers, None)


def test_a_request_says_how_long_its_body_is() -> None:
    assert b"content-length: 3\r\n" in request_head("POST", "/", {}, b"abc")
    assert b"content-length: 0\r\n" in request_head("POST", "/", {}, None)
    assert b"content-length" not in request_head("GET", "/", {}, None)
