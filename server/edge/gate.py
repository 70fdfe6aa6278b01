"""The gate: one plain ASGI layer around every request.

It assigns a request id, checks the Host header, authenticates the key and admits the request; then it calls the
app. Around all of that, it turns every exception into OpenAI's error object. A middleware for each of these would
cost a layer per message and hide disconnects.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter

import structlog
from sse_starlette.sse import SendTimeoutError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from catalog.errors import ModelNotFound, NotPermitted
from server.advising.upgrades import with_command
from server.callers import ANONYMOUS
from server.edge.access_log import AccessLog, Served
from server.edge.callers import presented_key
from server.edge.disconnect import ClientGone, ResponseCut
from server.edge.errors import ANTHROPIC_PATHS, as_error, error_response
from server.edge.heads import RandomHex, check_forwarded, check_host, check_origin, request_id
from server.edge.services import Services, passing
from server.edge.sockets.passage import SocketPassage
from server.observability.totals import Totals, begin_totals, end_totals
from server.scope import ABORT, CALLER, REQUEST_ID, SERVICES, STATUS, TRACE
from server.ui.pages import is_file, is_page

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Paths that are answered without a key."""

OPEN_BELOW = ("/v1/images/files/", "/images/files/")
"""Below these, the name of a picture is the secret that opens it."""

UNLOGGED = OPEN_PATHS | {"/v1/admin/log"}
"""Paths without an access line: probes, and the look at the log, which would fill the log with itself."""

PROBED_PATHS = frozenset({"/", "/api/hello"})
"""Paths that clients ask by HEAD, without a key, for whether a server is there. Claude Code does so first."""
METRICS_PATH = "/metrics"
CLIENT_CLOSED_REQUEST = 499
"""The status in logs and metrics of a request whose client left; it is never sent."""


class Gate:
    """Wraps the app. ``services`` is read on every request, so that settings can be reloaded."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._random = RandomHex()
        self._log = AccessLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await SocketPassage(self._services, self._app, scope, self._log)(receive, send)
            elif scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        await _Passage(self._services, self._app, scope, self._log, self._random)(receive, send)


class _Passage:
    """One request passing the gate."""

    __slots__ = ("_app", "_id", "_id_header", "_log", "_random", "_scope", "_send", "_services", "status")

    def __init__(
        self,
        services: Services,
        app: ASGIApp,
        scope: Scope,
        log: AccessLog,
        random: Callable[[int], str],
    ) -> None:
        self._services = services
        self._random = random
        self._app = app
        self._scope = scope
        self._log = log
        self.status = 0

    async def __call__(self, receive: Receive, send: Send) -> None:
        scope, services = self._scope, self._services
        began = perf_counter()
        headers = Headers(scope=scope)
        self._id = request_id(headers.get("x-request-id"), self._random)
        self._id_header = (b"x-request-id", self._id.encode())
        self._send = send
        scope[SERVICES] = services
        scope[REQUEST_ID] = self._id
        if TRACE not in scope:
            scope[TRACE] = self._random(16)
        scope[CALLER] = ANONYMOUS
        tokens = structlog.contextvars.bind_contextvars(request_id=self._id, trace=scope[TRACE])
        totals, of_totals = begin_totals()
        try:
            await self._pass(headers, receive)
        except ClientGone:
            self.status = self.status or CLIENT_CLOSED_REQUEST
        except Exception as error:  # the request edge: nothing leaves it but an answer
            if self.status and isinstance(error, SendTimeoutError | TimeoutError | ResponseCut):
                structlog.get_logger().warning("response cut", reason=type(error).__name__)
                self._abort()
            else:
                await self._answer_error(error, receive)
        finally:
            took = perf_counter() - began
            scope[STATUS] = self.status
            route = route_of(scope)
            services.metrics.request(route, scope["method"], self.status, took)
            if services.settings.log.access and scope["path"] not in UNLOGGED and not _is_file(scope):
                self._write_line(took, totals)
            end_totals(of_totals)
            structlog.contextvars.reset_contextvars(**tokens)

    def _write_line(self, took: float, totals: Totals) -> None:
        scope = self._scope
        client = scope.get("client")
        served = Served(
            self._id,
            scope[TRACE],
            scope["method"],
            scope["path"][:200],
            self.status,
            took,
            scope[CALLER].id,
            client[0] if client else "",
            totals,
        )
        if totals.open:
            totals.when_whole(partial(self._log.write, served))
        else:
            self._log.write(served)

    async def _pass(self, headers: Headers, receive: Receive) -> None:
        scope, services = self._scope, self._services
        check_forwarded(scope)
        check_host(headers.get("host"), services.settings.server)
        if scope["path"] in OPEN_PATHS or (scope["method"] != "POST" and _is_open(scope, headers, services)):
            await self._app(scope, receive, self._send_marked)
            return
        caller = services.authenticator.authenticate(presented_key(headers))
        scope[CALLER] = caller
        if caller.metrics and scope["path"] != METRICS_PATH:
            raise NotPermitted("This key may read /metrics and nothing else.")
        if scope["method"] != "POST":
            await self._app(scope, receive, self._send_marked)
            return
        if caller is ANONYMOUS and (origin := headers.get("origin")) is not None:
            check_origin(origin, headers, services.settings.server.cors.origins)
        with services.in_flight.admit(caller), passing(services, scope):
            await self._app(scope, receive, self._send_marked)

    async def _send_marked(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), self._id_header]
            if self._scope["path"].startswith(ANTHROPIC_PATHS):
                message["headers"].append((b"request-id", self._id_header[1]))
        await self._send(message)

    async def _answer_error(self, error: Exception, receive: Receive) -> None:
        typed = as_error(error)
        if typed is not error and typed.status >= 500:
            structlog.get_logger().error("request failed", exc_info=error)
        elif typed.status >= 500 and self._scope["path"] not in OPEN_PATHS:  # probes come every second or two
            structlog.get_logger().warning("request refused", code=typed.code)
        self._services.metrics.error(typed.code)
        if self.status:
            self._abort()
            return
        if isinstance(typed, ModelNotFound):
            typed = await with_command(typed)
        answer = error_response(typed, self._scope)
        await answer(self._scope, receive, self._send_marked)

    def _abort(self) -> None:
        """Close the connection at once, dropping data that its client has not read."""
        abort: Callable[[], None] | None = self._scope.get(ABORT)
        if abort is not None:
            abort()


def _is_file(scope: Scope) -> bool:
    return scope["method"] == "GET" and is_file(scope["path"])


def _is_open(scope: Scope, headers: Headers, services: Services) -> bool:
    """Whether a request needs no key: a look for a server, for a picture by its secret name, for the console."""
    method, path = scope["method"], scope["path"]
    if method == "HEAD" and path in PROBED_PATHS:
        return True
    if method in ("GET", "HEAD") and path.startswith(OPEN_BELOW):
        return True
    return method in ("GET", "HEAD") and services.settings.server.console and is_page(path, headers)


def route_of(scope: Scope) -> str:
    """The route's template, so that a path with a model's name does not become a metric label."""
    route = scope.get("route")
    return getattr(route, "path", "") or "other"
