"""A POST reaches an upstream once: a kept-alive connection that closes costs a new one, or an error."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from backends.base import Upstream
from backends.http import HttpClient
from backends.settings import BackendSettings
from catalog.errors import UpstreamUnreachable
from tests.backends.http.test_routes import listening

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER's value for a close that sends RST instead of FIN."""

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test on either event loop: their transports write and notice an EOF at different moments."""

    def run_on_loop(test: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(test)

    return run_on_loop


class Origin:
    """A server that sees each request whole, then answers it or, as scripted, closes without an answer."""

    def __init__(self, *script: bytes) -> None:
        """``script`` has the answer to each request; an empty one closes, and past its end all are answered."""
        self.seen: list[bytes] = []
        """The method of each request that was read, body included."""
        self.connections = 0
        self._script = list(script)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            length = head.partition(b"content-length: ")[2].partition(b"\r")[0]
            await reader.readexactly(int(length or 0))
            self.seen.append(head.partition(b" ")[0])
            answer = self._script.pop(0) if self._script else ANSWER
            if not answer:
                break
            writer.write(answer)
        writer.close()


def at(port: int, scheme: str = "http") -> Upstream:
    return Upstream("cloud", "openai", f"{scheme}://localhost:{port}/v1", "m")


# ---- closed while a request is under way


def test_a_post_whose_connection_closes_without_an_answer_fails_and_is_not_sent_again(run: Run) -> None:
    async def test() -> None:
        origin = Origin(ANSWER, b"")
        async with listening(origin.serve) as port, HttpClient() as http:
            assert await http.post_json(at(port), "/chat", {"n": 1}) == {}
            with pytest.raises(UpstreamUnreachable, match="closed the connection before it answered") as raised:
                await http.post_json(at(port), "/chat", {"n": 2})
            assert raised.value.retryable, "another candidate may be asked"
            assert origin.seen == [b"POST", b"POST"]
            assert origin.connections == 1
            assert await http.post_json(at(port), "/chat", {"n": 3}) == {}, "the next call has a new connection"
        assert (len(origin.seen), origin.connections) == (3, 2)

    run(test())


def test_a_get_whose_kept_alive_connection_closes_is_sent_once_more(run: Run) -> None:
    async def test() -> None:
        origin = Origin(ANSWER, b"")
        async with listening(origin.serve) as port, HttpClient() as http:
            for _ in range(2):
                assert await http.get_json(at(port), "/models") == {}
        assert (len(origin.seen), origin.connections) == (3, 2)

    run(test())


def test_a_get_is_not_sent_a_third_time(run: Run) -> None:
    async def test() -> None:
        origin = Origin(ANSWER, b"", b"")
        async with listening(origin.serve) as port, HttpClient() as http:
            await http.get_json(at(port), "/models")
            with pytest.raises(UpstreamUnreachable):
                await http.get_json(at(port), "/models")
        assert (len(origin.seen), origin.connections) == (3, 2)

    run(test())


def test_a_request_on_a_new_connection_that_closes_is_not_sent_again(run: Run) -> None:
    async def test() -> None:
        origin = Origin(b"", b"")
        async with listening(origin.serve) as port, HttpClient() as http:
            for call in (http.post_json(at(port), "/chat", {}), http.get_json(at(port), "/models")):
                with pytest.raises(UpstreamUnreachable):
                    await call
        assert (origin.seen, origin.connections) == ([b"POST", b"GET"], 2)

    run(test())


def test_a_post_to_a_worker_that_closes_without_an_answer_is_not_sent_again(run: Run, tmp_path: Path) -> None:
    async def test() -> None:
        origin = Origin(ANSWER.replace(b"200 OK\r\n", b"200 OK\r\nconnection: keep-alive\r\n"), b"")
        path = tmp_path / "worker.sock"
        server = await asyncio.start_unix_server(origin.serve, path)
        upstream = Upstream("worker/m", "worker", "http://worker/v1", "m", uds=str(path))
        async with HttpClient() as http:
            assert await http.post_json(upstream, "/chat", {}) == {}
            with pytest.raises(UpstreamUnreachable):
                await http.post_json(upstream, "/chat", {})
        server.close()
        assert (origin.seen, origin.connections) == ([b"POST", b"POST"], 2)

    run(test())


# ---- closed while idle


@pytest.mark.parametrize("linger", [None, RESET], ids=["FIN", "RST"])
def test_a_close_that_the_event_loop_has_not_noticed_yet_is_found_before_a_post_is_written(
    run: Run, linger: bytes | None
) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)

            async def answer_one() -> socket.socket:
                accepted, _ = await loop.sock_accept(listener)
                request = b""
                while not request.endswith(b"{}"):
                    request += await loop.sock_recv(accepted, 65536)
                await loop.sock_sendall(accepted, ANSWER)
                return accepted

            upstream = at(listener.getsockname()[1])
            async with HttpClient() as http:
                first = asyncio.create_task(answer_one())
                await http.post_json(upstream, "/chat", {})
                accepted = await first
                second = asyncio.create_task(answer_one())
                if linger is not None:
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                # No await from here until the client looks for a connection: the event loop does not run between.
                accepted.close()
                assert await http.post_json(upstream, "/chat", {}) == {}
                (await second).close()

    run(test())


def test_a_connection_over_tls_that_closed_while_idle_is_replaced(run: Run, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca_file := tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def test() -> None:
        origin = Origin()
        closed: list[Callable[[], Awaitable[None]]] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async def close() -> None:
                writer.close()
                await writer.wait_closed()

            closed.append(close)
            await origin.serve(reader, writer)

        async with (
            listening(serve, context) as port,
            HttpClient(BackendSettings(ca_file=ca_file)) as http,
        ):
            assert await http.post_json(at(port, "https"), "/chat", {}) == {}
            await closed[0]()
            assert await http.post_json(at(port, "https"), "/chat", {}) == {}
        assert (origin.seen, origin.connections) == ([b"POST", b"POST"], 2)

    run(test())


@pytest.mark.parametrize(
    ("announced", "connections"),
    [
        ("timeout=1", 3),
        ("timeout=0", 3),
        ("max=100, Timeout = 1", 3),
        ("timeout=60", 1),
        ("timeout=" + "9" * 5000, 1),
        ("max=100", 1),
        ("timeout=soon", 1),
    ],
)
def test_a_connection_is_kept_for_less_than_its_server_announces(
    run: Run, announced: str, connections: int
) -> None:
    async def test() -> None:
        origin = Origin(*[ANSWER.replace(b"200 OK\r\n", b"200 OK\r\nkeep-alive: %b\r\n" % announced.encode())] * 3)
        async with listening(origin.serve) as port, HttpClient() as http:
            for _ in range(3):
                assert await http.post_json(at(port), "/chat", {}) == {}
        assert origin.connections == connections

    run(test())


def test_a_connection_past_its_time_is_not_used_even_before_its_timer_rang(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        soon = ANSWER.replace(b"200 OK\r\n", b"200 OK\r\nkeep-alive: timeout=2\r\n")
        origin = Origin(ANSWER, soon)
        async with listening(origin.serve) as port, HttpClient() as http:
            await http.post_json(at(port), "/chat", {})  # sets the timer, for later than 2 s
            await http.post_json(at(port), "/chat", {})
            loop = asyncio.get_running_loop()
            late = loop.time() + 1.5
            with monkeypatch.context() as patched:
                patched.setattr(loop, "time", lambda: late)
                await http.post_json(at(port), "/chat", {})
        assert (len(origin.seen), origin.connections) == (3, 2)

    run(test())
