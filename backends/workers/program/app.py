"""The HTTP app around an engine that has no server of its own: key, errors, cancellation and counts.

The engine supplies its routes and how to load. The app guarantees:

- every path but ``/health`` requires the worker's key;
- every error has OpenAI's shape;
- an exception that one request causes is that request's error, and no other's;
- a disconnect stops the client's work, streamed or not;
- an error before the first byte is an HTTP error; after it, an SSE stream gets an error event and any other body
  is cut off, so neither looks complete.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backends.headers import header_list
from backends.notices import DROPPED
from backends.workers.program.server import serve_app
from backends.workers.program.threads import WorkerStats
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import (
    InvalidRequest,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    RequestFailed,
    RoundhouseError,
)
from catalog.validation.wording import allowed, place

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
_log = logging.getLogger(__name__)


class AppEngine(Protocol):
    """An engine that the app serves. ``load`` and ``close`` block."""

    @property
    def stats(self) -> WorkerStats: ...

    def routes(self) -> Sequence[BaseRoute]: ...

    def load(self) -> None:
        """Load the model, before the socket is opened.

        Raises EngineMissing, ModelUnavailable, and ConfigurationError for wrong options.
        """
        ...

    def close(self) -> None: ...


class ClientDisconnected(Exception):
    """The client closed its connection before the answer was ready."""


def serve_engine(spec: WorkerSpec, engine: AppEngine, ready: Ready) -> None:
    """Load ``engine``, listen on the worker's Unix socket, call ``ready``, and return after SIGTERM.

    Raises what ``engine.load`` raises.
    """
    engine.load()
    serve_app(build_app(spec, engine), spec, ready)


def build_app(spec: WorkerSpec, engine: AppEngine) -> Starlette:
    """Build the app of a loaded ``engine``: its routes, ``/health``, ``/stats`` and ``/v1/models``."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    async def health(_: Request) -> Response:
        return json_response({"status": "ok"})

    async def stats(_: Request) -> Response:
        return json_response(asdict(engine.stats))

    async def models(_: Request) -> Response:
        row = {"id": spec.model_id, "object": "model", "created": 0, "owned_by": "roundhouse"}
        return json_response({"object": "list", "data": [row]})

    return Starlette(
        routes=[
            *engine.routes(),
            Route("/health", health),
            Route("/stats", stats),
            Route("/v1/models", models),
        ],
        middleware=[Middleware(KeyCheck, key=spec.api_key)],
        exception_handlers={
            RoundhouseError: _typed_error,
            HTTPException: _http_error,
            ClientDisconnected: _client_disconnected,
            Exception: _unexpected_error,
        },
        lifespan=lifespan,
    )


class KeyCheck:
    """ASGI middleware that requires ``key`` as bearer token, compared in constant time; ``/health`` is exempt."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(given, self._expected):
                await error_response(NotAuthenticated("This worker's key is wrong."))(scope, receive, send)
                return
        await self._app(scope, receive, send)


# ---- answers


def json_response(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Make a JSON response; ``body`` may contain numpy scalars and arrays."""
    return Response(
        orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), status, headers, media_type="application/json"
    )


def error_response(error: RoundhouseError) -> Response:
    """Make the response of an error, in OpenAI's shape."""
    return json_response(error.to_body(), status=error.status, headers=error.headers())


def dropped(names: Iterable[str]) -> dict[str, str]:
    """Make the header that lists parameters without effect; none if there are none."""
    listed = header_list(names)
    return {DROPPED: listed} if listed else {}


def parse(model: type[M], body: bytes) -> M:
    """Parse a JSON body. Raises InvalidRequest with the first mistake and its field."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise invalid_request(error) from None


def invalid_request(error: ValidationError) -> InvalidRequest:
    """Translate pydantic's first error."""
    first = error.errors(include_url=False, include_input=False)[0]
    param = place(first) or None
    return InvalidRequest(f"{param}: {allowed(first)}" if param else allowed(first), param=param)


async def cancel_on_disconnect(request: Request, work: Awaitable[T]) -> T:
    """Await ``work``; cancel it and raise ClientDisconnected as soon as the client disconnects."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def stream_response(
    request: Request,
    chunks: AsyncGenerator[bytes, None],
    *,
    media_type: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Make a response that streams ``chunks``. Waits for the first one, so that its failure is an HTTP error."""

    async def first_chunk() -> bytes | None:
        return await anext(chunks, None)

    try:
        first = await cancel_on_disconnect(request, first_chunk())
    except BaseException:
        await chunks.aclose()
        raise
    return _Streamed(first, chunks, media_type=media_type, headers=headers)


def sse_event(body: Mapping[str, Any]) -> bytes:
    """Encode a server-sent event."""
    return b"data: " + orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n\n"


class _Streamed(Response):
    def __init__(
        self,
        first: bytes | None,
        chunks: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        headers: Mapping[str, str] | None,
    ) -> None:
        super().__init__(None, 200, headers, media_type)
        del self.headers["content-length"]
        self._first = first
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        pump = asyncio.ensure_future(self._pump(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pump.cancel()
            gone.cancel()
            await asyncio.gather(pump, gone, return_exceptions=True)
            await self._chunks.aclose()
        if not pump.cancelled():
            pump.result()

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._chunks) as chunks:
            try:
                if self._first is not None:
                    await send(_body(self._first))
                async for chunk in chunks:
                    await send(_body(chunk))
            except Exception as error:  # the request edge: headers are sent, so only an event can report it
                if self.media_type != "text/event-stream":
                    raise
                await send(_body(sse_event(_as_typed(error).to_body())))
        await send(_body(b"", more=False))


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


# ---- errors


async def _typed_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RoundhouseError)
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(NotFound(f"This worker has no {request.url.path}."))
    if error.status_code == 405:
        return error_response(MethodNotAllowed(f"{request.url.path} does not accept {request.method}."))
    return error_response(InvalidRequest(error.detail))


async def _client_disconnected(_: Request, __: Exception) -> Response:
    return Response(status_code=499)


async def _unexpected_error(_: Request, error: Exception) -> Response:
    """The request edge for unexpected exceptions: the worker stays alive and logs the traceback."""
    return error_response(_as_typed(error))


def _as_typed(error: Exception) -> RoundhouseError:
    if isinstance(error, RoundhouseError):
        return error
    _log.error("request failed", exc_info=error)
    return RequestFailed("The worker's log says why.")
