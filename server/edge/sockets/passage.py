"""The gate for WebSockets: everything that :mod:`server.edge.gate` does for a request, before the handshake's
answer.

A refusal is an HTTP answer to the handshake, with OpenAI's error object. A browser's script cannot read that, so a
client that offers the subprotocol ``realtime``, as browsers' clients do, gets an open socket, an ``error`` event
and a close. A browser sends its page's origin and cannot set headers: its key is a subprotocol, ``openai-insecure-
api-key.KEY``. A page of another origin has a key of its own, or it is refused.
"""

from __future__ import annotations

from secrets import token_hex
from time import perf_counter
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from catalog.errors import ModelNotFound, NotAuthenticated, NotFound, NotPermitted, RoundhouseError
from server.advising.upgrades import with_command
from server.callers import ANONYMOUS, Caller
from server.edge.access_log import AccessLog, Served
from server.edge.auth import Keys
from server.edge.callers import MAX_KEY, presented_key
from server.edge.errors import NOTHING_HERE, as_error, error_response
from server.edge.heads import check_forwarded, check_host, origin_allowed, request_id
from server.edge.services import Services, passing
from server.edge.sockets.error_events import error_text
from server.observability.totals import begin_totals, end_totals
from server.scope import CALLER, REQUEST_ID, SECRET, SERVICES, STATUS, TRACE
from server.storage.client_secrets import PREFIX, ClientSecret, find_secret

KEY_PROTOCOL = "openai-insecure-api-key."
"""The beginning of the subprotocol that carries a browser's key. Source: openai-node, realtime/websocket.ts."""
PROTOCOL = "realtime"
POLICY_VIOLATION = 1008
SWITCHING = 101
SOCKET_PATHS = frozenset({"/v1/realtime", "/realtime"})


class SocketPassage:
    """One WebSocket passing the gate."""

    def __init__(self, services: Services, app: ASGIApp, scope: Scope, log: AccessLog) -> None:
        self._services = services
        self._app = app
        self._scope = scope
        self._log = log
        self._offered: list[str] = list(scope.get("subprotocols") or ())
        self._send: Send
        self._status = 0

    async def __call__(self, receive: Receive, send: Send) -> None:
        scope, services = self._scope, self._services
        began = perf_counter()
        headers = Headers(scope=scope)
        given = request_id(headers.get("x-request-id"))
        self._id_header = (b"x-request-id", given.encode())
        self._send = send
        scope[SERVICES], scope[REQUEST_ID], scope[TRACE], scope[CALLER] = services, given, token_hex(16), ANONYMOUS
        tokens = structlog.contextvars.bind_contextvars(request_id=given, trace=scope[TRACE])
        totals, of_totals = begin_totals()
        try:
            await self._pass(headers, receive)
        except Exception as error:  # the request edge: nothing leaves it but a refusal
            await self._refuse(error, receive)
        finally:
            took = perf_counter() - began
            scope[STATUS] = self._status
            path = scope["path"]
            services.metrics.session(path if path in SOCKET_PATHS else "other", self._status)
            if services.settings.log.access:
                client = scope.get("client")
                key, address = scope[CALLER].id, client[0] if client else ""
                self._log.write(
                    Served(given, scope[TRACE], "GET", path[:200], self._status, took, key, address, totals)
                )
            end_totals(of_totals)
            structlog.contextvars.reset_contextvars(**tokens)

    async def _pass(self, headers: Headers, receive: Receive) -> None:
        scope, services = self._scope, self._services
        check_forwarded(scope)
        check_host(headers.get("host"), services.settings.server)
        if scope["path"] not in SOCKET_PATHS:
            raise NotFound(NOTHING_HERE)
        caller = await self._caller(headers)
        scope[CALLER] = caller
        if caller.metrics:
            raise NotPermitted("This key may read /metrics and nothing else.")
        origin = headers.get("origin")
        if caller is ANONYMOUS and origin is not None:
            allowed = services.settings.server.cors.origins
            if not origin_allowed(origin, headers, allowed):
                raise NotPermitted("This page is of another origin. Add that to origins in [server.cors].")
        with services.in_flight.admit(caller), passing(services, scope):
            await self._app(scope, receive, self._send_marked)

    async def _caller(self, headers: Headers) -> Caller:
        """The caller of the key or the client secret that was presented. Raises NotAuthenticated."""
        key = presented_key(headers) or self._offered_key()
        services = self._services
        if key is None or not key.startswith(PREFIX) or services.runtime is None:
            return services.authenticator.authenticate(key)
        found = await find_secret(services.runtime.storage, key)
        caller = None if found is None else self._owner(found)
        if found is None or caller is None:
            raise NotAuthenticated("The client secret is unknown or expired. Make another one.")
        self._scope[SECRET] = found
        return caller

    def _owner(self, secret: ClientSecret) -> Caller | None:
        """The caller whose key made a secret, without an administrator's rights; None once the key is gone."""
        authenticator: Any = self._services.authenticator
        if not isinstance(authenticator, Keys):
            return Caller(id=secret.owner)
        return authenticator.holder(secret.owner)

    def _offered_key(self) -> str | None:
        for offer in self._offered:
            if offer.startswith(KEY_PROTOCOL):
                key = offer.removeprefix(KEY_PROTOCOL)
                if len(key) > MAX_KEY:
                    raise NotAuthenticated("The API key is unknown, expired or revoked.")
                return key
        return None

    async def _send_marked(self, message: Message) -> None:
        if message["type"] == "websocket.accept":
            self._status = SWITCHING
            message["headers"] = [*message.get("headers", ()), self._id_header]
            if PROTOCOL in self._offered:
                message["subprotocol"] = PROTOCOL
        await self._send(message)

    async def _refuse(self, error: Exception, receive: Receive) -> None:
        typed = as_error(error)
        if typed is not error:
            structlog.get_logger().error("request failed", exc_info=error)
        self._services.metrics.error(typed.code)
        if self._status:
            return
        if isinstance(typed, ModelNotFound):
            typed = await with_command(typed)
        if PROTOCOL in self._offered:
            await self._tell(typed)
            self._status = typed.status
            return
        self._status = typed.status
        await _http_refusal(typed, self._scope, self._id_header, receive, self._send)

    async def _tell(self, error: RoundhouseError) -> None:
        """Open the socket, send the error as an event, and close it."""
        await self._send_marked({"type": "websocket.accept"})
        await self._send({"type": "websocket.send", "text": error_text(error).decode()})
        await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": error.code})


async def _http_refusal(
    error: RoundhouseError, scope: Scope, id_header: tuple[bytes, bytes], receive: Receive, send: Send
) -> None:
    """Answer a handshake with an error. Source: ASGI's extension "Websocket Denial Response"."""

    async def deny(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), id_header]
        await send({**message, "type": f"websocket.{message['type']}"})

    await error_response(error, scope)({**scope, "type": "http"}, receive, deny)
