"""The base of the fakes: a real HTTP server on loopback or a Unix socket, with faults on demand.

A fake of a provider is a subclass with :meth:`FakeServer.routes`; its handlers answer through
:meth:`FakeServer.document` and :meth:`FakeServer.stream`, which apply the faults. A test sets faults
with :meth:`FakeServer.script`, a client in another process with the header ``x-fake-fault`` or ``POST /_control``
(both JSON objects of :class:`Fault`'s fields).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

from catalog.types import Json
from tests.loop_time import within


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault in the answer to one request. Times are seconds; chunks are counted from 0.

    ``die_after`` aborts the connection, ``stall_after`` sends nothing more and keeps it open, ``hold_after`` waits
    until the test sets :attr:`FakeServer.go`, ``cut_after`` ends the answer in good order but too early,
    ``malformed_after`` sends bytes that are not the wire. With 0 they strike before the first chunk;
    ``die_after=-1`` strikes before the headers.
    """

    delay: float = 0.0
    first_byte_delay: float = 0.0
    chunk_delay: float = 0.0
    die_after: int | None = None
    stall_after: int | None = None
    hold_after: int | None = None
    cut_after: int | None = None
    malformed_after: int | None = None
    status: int | None = None
    message: str = "The fake was told to fail."
    code: str | None = None
    type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    bad_json: bool = False
    refuse: bool = False

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Fault:
        known = {item.name for item in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"a fault has no {sorted(unknown)}")
        return cls(**values)


NO_FAULT = Fault()
NONE: Mapping[str, str] = {}


@dataclass(slots=True)
class Call:
    """One request that the fake received. ``body`` is the JSON object, or the fields of the form.

    ``peer`` is the client's address and port: the same for requests on one connection. ``sent`` counts the
    chunks that left; ``cancelled`` is set when the client went away before the end.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Json
    files: dict[str, bytes]
    fault: Fault
    peer: Any = None
    sent: int = 0
    finished: bool = False
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def left(self) -> None:
        """Wait until the client has gone away; raises TimeoutError after 250 ms of virtual time."""
        await within(0.25, self.cancelled.wait())


Handler = Callable[[web.Request, Call], Awaitable[web.StreamResponse]]
Route = tuple[str, str, Handler]


class FakeServer:
    """A server whose subclass defines the answers and whose test defines the faults.

    Use it as an async context manager. ``uds`` makes it listen on a Unix socket instead of an ephemeral port.
    """

    def __init__(self, *, uds: Path | None = None) -> None:
        self.uds = uds
        self.calls: list[Call] = []
        self.fault = NO_FAULT
        self.go = asyncio.Event()
        self.connections = 0
        self._script: deque[Fault] = deque()
        self._arrived = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self._port = 0

    # ---- for tests

    @property
    def origin(self) -> str:
        """``http://127.0.0.1:PORT``, or a stand-in host when the server is on a Unix socket."""
        return "http://localhost" if self.uds else f"http://127.0.0.1:{self._port}"

    def script(self, *faults: Fault) -> None:
        """Faults of the next requests, one each, in order; then :attr:`fault` again."""
        self._script.extend(faults)

    async def call(self, number: int = 0, *, timeout: float = 5.0) -> Call:
        """The request of this number (from 0), as soon as it has arrived."""
        async with asyncio.timeout(timeout), self._arrived:
            await self._arrived.wait_for(lambda: len(self.calls) > number)
        return self.calls[number]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        """Listen on the Unix socket, or on this port of the loopback; 0 is an ephemeral one."""
        app = web.Application(client_max_size=256 * 1024 * 1024)
        for method, path, handler in self.routes():
            app.router.add_route(method, path, self._serve(handler))
        app.router.add_post("/_control", self._control)
        app.router.add_get("/_control", self._report)
        app.router.add_route("*", "/{rest:.*}", self._serve(self._not_found))
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site: web.BaseSite
        if self.uds:
            site = web.UnixSite(self._runner, self.uds)
        else:
            site = web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=self.tls())
        await site.start()
        if not self.uds:
            self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # ---- for subclasses

    def routes(self) -> list[Route]:
        """Method, path and handler of every route of the provider."""
        return []

    def tls(self) -> ssl.SSLContext | None:
        """Override to serve HTTPS."""
        return None

    def error(self, status: int, message: str, *, code: str | None = None, kind: str | None = None) -> Json:
        """The provider's error body. OpenAI's, unless overridden."""
        return {"error": {"message": message, "type": kind or _TYPES.get(status), "param": None, "code": code}}

    def malformed(self) -> bytes:
        """Bytes to send in place of a valid event."""
        return b'data: {"choices": [{"delta"\n\n'

    def refused(self, call: Call, status: int, message: str, **names: str | None) -> web.Response:
        """An error in the provider's format."""
        del call
        return web.json_response(self.error(status, message, **names), status=status)

    async def document(self, request: web.Request, call: Call, payload: Any, *, status: int = 200) -> web.Response:
        """A plain JSON answer."""
        await asyncio.sleep(call.fault.first_byte_delay)
        if call.fault.stall_after is not None:
            await asyncio.Event().wait()
        if call.fault.hold_after is not None:
            await self.go.wait()
        if call.fault.die_after is not None:
            self.hang_up(request)
        call.finished = True
        body = b'{"not json' if call.fault.bad_json else orjson.dumps(payload)
        return web.Response(body=body, status=status, content_type=call.fault.content_type or "application/json")

    async def stream(
        self,
        request: web.Request,
        call: Call,
        chunks: Iterable[bytes],
        *,
        content_type: str = "text/event-stream",
        headers: Mapping[str, str] = NONE,
    ) -> web.StreamResponse:
        """An answer in pieces, faults between them."""
        fault = call.fault
        kept = {**headers, "content-type": fault.content_type or content_type, **fault.headers}
        response = web.StreamResponse(headers=kept)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await asyncio.sleep(fault.first_byte_delay)
        for number, chunk in enumerate(chunks):
            if fault.die_after == number:
                self.hang_up(request)
            if fault.stall_after == number:
                await asyncio.Event().wait()
            if fault.hold_after == number:
                await self.go.wait()
            if fault.cut_after == number:
                return response
            if fault.malformed_after == number:
                await response.write(self.malformed())
            if number and fault.chunk_delay:
                await asyncio.sleep(fault.chunk_delay)
            await response.write(chunk)
            call.sent += 1
        call.finished = True
        return response

    @staticmethod
    def hang_up(request: web.Request) -> None:
        """Abort the connection."""
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError

    # ---- the machinery

    def _serve(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            call = await self._read(request)
            async with self._arrived:
                self.calls.append(call)
                self._arrived.notify_all()
            try:
                await asyncio.sleep(call.fault.delay)
                if call.fault.die_after == -1:
                    self.hang_up(request)
                if call.fault.status is not None:
                    return self._failure(call.fault)
                return await handler(request, call)
            except (asyncio.CancelledError, ConnectionError):
                call.cancelled.set()
                raise

        return serve

    def _failure(self, fault: Fault) -> web.Response:
        assert fault.status is not None
        headers = dict(fault.headers)
        if fault.content_type:
            return web.Response(
                text=fault.message, status=fault.status, headers=headers, content_type=fault.content_type
            )
        body = self.error(fault.status, fault.message, code=fault.code, kind=fault.type)
        return web.json_response(body, status=fault.status, headers=headers)

    async def _read(self, request: web.Request) -> Call:
        body: Json = {}
        files: dict[str, bytes] = {}
        if request.content_type == "multipart/form-data":
            for name, value in (await request.post()).items():
                if isinstance(value, web.FileField):
                    files[name if name not in files else f"{name}#{len(files)}"] = value.file.read()
                    value.file.close()
                else:
                    body.setdefault(name, []).append(value)
            body = {
                name: values if name.endswith("[]") or values[1:] else values[0] for name, values in body.items()
            }
        elif raw := await request.read():
            with contextlib.suppress(orjson.JSONDecodeError):
                parsed = orjson.loads(raw)
                body = parsed if isinstance(parsed, dict) else {"_": parsed}
        header = request.headers.get("x-fake-fault")
        if header is not None:
            fault = Fault.from_json(json.loads(header))
        else:
            fault = self._script.popleft() if self._script else self.fault
        headers = {name.lower(): value for name, value in request.headers.items()}
        peer = request.transport.get_extra_info("peername") if request.transport else None
        return Call(request.method, request.path, dict(request.query), headers, body, files, fault, peer)

    async def _not_found(self, request: web.Request, call: Call) -> web.StreamResponse:
        return self.refused(call, 404, f"Invalid URL ({request.method} {request.path})")

    async def _control(self, request: web.Request) -> web.StreamResponse:
        self.fault = Fault.from_json(await request.json())
        return web.json_response({"fault": {**asdict(self.fault), "headers": dict(self.fault.headers)}})

    async def _report(self, request: web.Request) -> web.StreamResponse:
        calls = [
            {
                "method": call.method,
                "path": call.path,
                "body": call.body,
                "sent": call.sent,
                "finished": call.finished,
                "cancelled": call.cancelled.is_set(),
            }
            for call in self.calls
        ]
        return web.json_response({"calls": calls})


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
