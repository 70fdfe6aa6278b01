"""The undocumented parts of libraries that :mod:`server.edge` lists exist and behave as it says."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from sse_starlette.sse import EventSourceResponse
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.lifespan.off import LifespanOff
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import Server, ServerState

import server.edge

GET = b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n"
LIST = re.sub(r"\n  (?=\S)", " ", server.edge.__doc__ or "")


def rows() -> list[tuple[str, str, tuple[str, ...]]]:
    """Owner, attribute and parameters of every name in the list."""
    return [
        (owner, name, tuple(one for one in parameters.split(", ") if one))
        for owner, names in re.findall(r"^- ([\w.]+): (.+)$", LIST, re.MULTILINE)
        for name, parameters in re.findall(r"(\w+)(?:\(([^)]*)\))?", names)
    ]


ROWS = rows()


class Wire(asyncio.Transport):
    """A transport whose other methods raise NotImplementedError."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class ServerOnce(Server):
    """Starts, and stops at once; ``extra`` is put among its servers."""

    def __init__(self, extra: Any = None) -> None:
        super().__init__(config())
        self.extra = extra

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.found = list(self.servers)
        if self.extra is not None:
            self.servers.append(self.extra)
        asyncio.get_running_loop().call_soon(setattr, self, "should_exit", True)


class Listener:
    """All that the server asks of a listener."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def close(self) -> None:
        self.calls.append("close")

    async def wait_closed(self) -> None:
        self.calls.append("wait_closed")


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await Response("hello")(scope, receive, send)


async def endpoint(request: Request) -> Response:
    return Response("hello")


def config(app: ASGIApp = hello) -> Config:
    made = Config(app, http="httptools", lifespan="off", log_config=None, reset_contextvars=True)
    made.load()
    return made


def connected(kind: type[HttpToolsProtocol], app: ASGIApp = hello) -> HttpToolsProtocol:
    """A protocol with a client."""
    protocol = kind(config(app), ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(Wire())
    return protocol


async def get(app: ASGIApp, path: str = "/x", *, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        return await client.request(method, path)


async def instance(kind: type) -> Any:
    """One of this class in use: what constructors and starting set is not on the class."""
    if kind is Server:
        server = ServerOnce()
        await server.serve(sockets=[])
        return server
    if kind in (HttpToolsProtocol, RequestResponseCycle, FlowControl):
        protocol = connected(HttpToolsProtocol)
        protocol.data_received(GET)
        await asyncio.gather(*protocol.tasks)
        (found,) = [one for one in (protocol, protocol.cycle, protocol.flow) if type(one) is kind]
        return found
    return MAKERS[kind]()


def a_socket() -> WebSocketsSansIOProtocol:
    """A WebSocket's protocol before its handshake."""
    return WebSocketsSansIOProtocol(config(), ServerState(), {}, asyncio.get_running_loop())


MAKERS: dict[type, Callable[[], Any]] = {
    Config: config,
    LifespanOff: lambda: LifespanOff(config()),
    WebSocketsSansIOProtocol: a_socket,
    FastAPI: FastAPI,
    Middleware: lambda: Middleware(Wire),  # type: ignore[arg-type]
    APIRouter: APIRouter,
    APIRoute: lambda: APIRoute("/x", endpoint),
    Response: Response,
    MultiPartException: lambda: MultiPartException("x"),
    EventSourceResponse: lambda: EventSourceResponse(iter(())),
}


def test_the_list_names_every_library() -> None:
    assert len(ROWS) > 40
    libraries = {owner.partition(".")[0] for owner, _, _ in ROWS}
    assert libraries == {"uvicorn", "starlette", "fastapi", "sse_starlette"}


def test_each_behaviour_in_the_list_has_a_test() -> None:
    sentences = re.findall(r"^- \[(.+)\]$", LIST, re.MULTILINE)
    assert sentences == [test.__doc__ for test in BEHAVIOURS]


@pytest.mark.parametrize(("owner", "name", "parameters"), ROWS, ids=[f"{o}.{n}" for o, n, _ in ROWS])
async def test_it_exists_and_takes_these_parameters(owner: str, name: str, parameters: tuple[str, ...]) -> None:
    module, _, attribute = owner.rpartition(".")
    kind: type = getattr(importlib.import_module(module), attribute)
    found = getattr(kind if hasattr(kind, name) else await instance(kind), name)
    if parameters:
        taken = inspect.signature(found).parameters
        anything = any(one.kind is one.VAR_KEYWORD for one in taken.values())
        assert anything or set(parameters) <= set(taken)


async def test_a_task_starts_after_the_headers() -> None:
    """A request's task starts after on_headers_complete has returned, so its transport can be replaced there."""
    began: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        began.append("task")
        await hello(scope, receive, send)

    class Protocol(HttpToolsProtocol):
        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            began.append("returned")

    protocol = connected(Protocol, app)
    protocol.data_received(GET)
    await asyncio.gather(*protocol.tasks)
    assert began == ["returned", "task"]


async def test_a_response_needs_three_methods_of_the_transport() -> None:
    """A response is sent with no other method of the transport than write, close and is_closing."""
    wire = Wire()

    class Protocol(HttpToolsProtocol):
        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            self.cycle.transport = wire

    protocol = connected(Protocol)
    protocol.data_received(GET.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
    await asyncio.gather(*protocol.tasks)
    assert wire.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert wire.written.endswith(b"hello")
    assert wire.closed


async def test_an_exception_in_a_callback_is_a_bad_request() -> None:
    """An exception in a callback of the parser is answered by send_400_response."""
    refused: list[str] = []

    class Protocol(HttpToolsProtocol):
        def on_header(self, name: bytes, value: bytes) -> None:
            raise RuntimeError

        def send_400_response(self, msg: str) -> None:
            refused.append(msg)

    connected(Protocol).data_received(GET)
    assert len(refused) == 1


async def test_one_message_waits_at_a_time() -> None:
    """A WebSocket's message is read while no other waits for the handler."""

    class Paused(Wire):
        reading = True

        def pause_reading(self) -> None:
            self.reading = False

        def resume_reading(self) -> None:
            self.reading = True

    wire, taken = Paused(), asyncio.Event()
    got: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await taken.wait()
        got.append((await receive())["text"])

    protocol = WebSocketsSansIOProtocol(config(app), ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(wire)
    key = b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n"
    upgrade = b"upgrade: websocket\r\nconnection: upgrade\r\n"
    protocol.data_received(b"GET /x HTTP/1.1\r\nhost: localhost\r\n" + upgrade + key + b"\r\n")
    await asyncio.sleep(0.01)
    assert wire.written.startswith(b"HTTP/1.1 101 ")
    protocol.data_received(b"\x81\x82\0\0\0\0hi")
    assert not wire.reading
    taken.set()
    await asyncio.gather(*protocol.tasks)
    assert (got, wire.reading) == (["hi"], True)


async def test_without_sockets_nothing_listens() -> None:
    """Startup with an empty list of sockets listens to nothing."""
    server = ServerOnce()
    await server.serve(sockets=[])
    assert server.found == []


async def test_shutdown_closes_listeners_and_waits_for_them() -> None:
    """Shutdown calls close and wait_closed of each of its servers, and nothing else."""
    listener = Listener()
    await ServerOnce(listener).serve(sockets=[])
    assert listener.calls == ["close", "wait_closed"]


async def test_the_stack_is_built_once_and_late() -> None:
    """The middleware stack is built once, at the first request, when all routes are there."""
    built: list[int] = []

    class App(FastAPI):
        def build_middleware_stack(self) -> ASGIApp:
            built.append(len(self.routes))
            return super().build_middleware_stack()

    app = App()
    app.router.routes.extend([APIRoute("/x", endpoint)])
    assert (await get(app)).text == (await get(app)).text == "hello"
    assert built == [len(app.routes)]


async def test_the_scope_has_the_route() -> None:
    """A matched APIRoute puts itself in the scope as route."""
    app, scopes = FastAPI(), list[Scope]()
    app.router.routes.extend([APIRoute("/{name}", endpoint)])

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await app(scope, receive, send)

    assert (await get(outer)).text == "hello"
    assert scopes[0]["route"].path == "/{name}"


async def test_a_wrong_method_is_an_exception() -> None:
    """A method that a path does not take is an HTTPException with the header Allow."""

    async def handle(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return Response(status_code=error.status_code, headers=error.headers)

    app = FastAPI(exception_handlers={HTTPException: handle})
    app.router.routes.extend([APIRoute("/x", endpoint)])
    answer = await get(app, method="PUT")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


def test_headers_need_no_body() -> None:
    """Headers can be initialised without a body, and then have no content-length."""
    response = Response.__new__(Response)
    response.status_code = 200
    response.init_headers({"X-A": "b"})
    assert response.raw_headers == [(b"x-a", b"b")]


def test_event_headers_need_no_event_loop() -> None:
    """EventSourceResponse makes its headers in its constructor, outside an event loop."""
    headers = dict(EventSourceResponse(iter(())).raw_headers)
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert b"cache-control" in headers


BEHAVIOURS: tuple[Callable[..., Any], ...] = (
    test_a_task_starts_after_the_headers,
    test_a_response_needs_three_methods_of_the_transport,
    test_an_exception_in_a_callback_is_a_bad_request,
    test_one_message_waits_at_a_time,
    test_without_sockets_nothing_listens,
    test_shutdown_closes_listeners_and_waits_for_them,
    test_the_stack_is_built_once_and_late,
    test_the_scope_has_the_route,
    test_a_wrong_method_is_an_exception,
    test_headers_need_no_body,
    test_event_headers_need_no_event_loop,
)
