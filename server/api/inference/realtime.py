"""/v1/realtime: spoken sessions over a WebSocket, and POST /v1/realtime/client_secrets for browsers.

WebRTC and SIP (``/v1/realtime/calls``) are out of scope: a client connects by WebSocket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from typing_extensions import TypedDict

from backends.wire.common import OwnBody
from catalog.errors import InvalidRequest, ModelNotFound, NotPermitted, RateLimited, Unavailable
from catalog.model import Capability
from catalog.types import Json
from routing.reading.intent import is_auto
from server.answers.whole import json_response
from server.callers import Caller
from server.edge.admission import InFlight
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import Services, runtime_of
from server.realtime.beta import HEADER, PROTOCOL, VALUE, to_current
from server.realtime.checking import Checking
from server.realtime.configuration import Configuration, defaults, merged
from server.realtime.context import SessionContext
from server.realtime.items import new_id
from server.realtime.passing import PassedSession
from server.realtime.session import RealtimeSession
from server.realtime.socket import SocketSession
from server.runtime import Runtime
from server.scope import ABORT, CALLER, SECRET, SERVICES
from server.storage.client_secrets import ClientSecret, make_secret
from server.storage.slots import leaves_room

router = APIRouter(tags=["realtime"])
SECONDS = 600


class SecretExpiry(OwnBody):
    """``seconds`` after its creation a client secret opens no more sessions."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = SECONDS


class SecretRequest(OwnBody):
    """A client secret for a browser, with the configuration of its sessions."""

    expires_after: SecretExpiry = SecretExpiry()
    session: dict[str, Any] | None = None


class SecretCard(TypedDict):
    """``value`` is shown once; ``session`` is the effective configuration."""

    value: str
    expires_at: int
    session: dict[str, Any]


@route(
    router,
    "POST",
    "/v1/realtime/client_secrets",
    Contract(reads=SecretRequest, answers=SecretCard, raises=(ModelNotFound, NotPermitted)),
)
async def create_client_secret(request: Request, body: SecretRequest) -> Response:
    """Make a short-lived key for a browser, which opens sessions of this configuration and nothing else."""
    runtime, caller = runtime_of(request), caller_of(request)
    given = to_current(body.session or {})
    sent = first_configuration(given, {})
    check_model(runtime, caller, sent)
    configuration = Configuration.new(new_id("sess"), sent, 0)
    if not is_passed(runtime, sent):
        Checking(runtime, caller, request.headers).check(configuration)
    kept = {**given, "type": sent["type"]}
    value, expires = await make_secret(runtime.storage, caller, kept, seconds=body.expires_after.seconds)
    session = configuration.public()
    del session["expires_at"]  # of a session, which begins when it is opened
    return json_response({"value": value, "expires_at": int(expires), "session": session})


HINT = Contract(hidden=True)


@route(router, "GET", "/v1/realtime", HINT)
async def get_realtime(request: Request) -> Response:
    """Say that this is a WebSocket."""
    raise InvalidRequest(f"{request.url.path} is a WebSocket: connect to it with ws:// or wss://.")


@route(router, "POST", "/v1/realtime/calls", HINT)
async def create_call(request: Request) -> Response:
    """Say that WebRTC is not served."""
    del request
    raise InvalidRequest("WebRTC and SIP are not served. Connect to /v1/realtime by WebSocket.")


async def connect_realtime(socket: WebSocket) -> None:
    """Open a session. Raises what the gate tells the client before the handshake."""
    services: Services = socket.scope[SERVICES]
    runtime, caller = services.runtime, socket.scope[CALLER]
    if runtime is None:
        raise Unavailable("The server is starting. Try again.", retry_after=1)
    query = dict(socket.query_params)
    if "call_id" in query:
        raise InvalidRequest("Calls over WebRTC and SIP are not served; connect with 'model'.", param="call_id")
    secret: ClientSecret | None = socket.scope.get(SECRET)
    beta = socket.headers.get(HEADER, "") == VALUE or PROTOCOL in socket.scope["subprotocols"]
    given = {} if secret is None else secret.session
    if secret is not None:
        check_secret(runtime, secret, query)
    sent = first_configuration(given, query)
    check_model(runtime, caller, sent)
    check_room(services.in_flight, caller, services)
    context = SessionContext(
        runtime=runtime,
        caller=caller,
        headers=socket.headers,
        in_flight=services.in_flight,
        settings=services.settings.realtime,
        clock=services.clock,
        on_error=services.metrics.error,
        on_reply=services.metrics.reply,
    )
    session = SocketSession(
        context,
        socket.receive,
        socket.send,
        beta=beta,
        send_timeout=services.settings.server.timeouts.send,
        abort=socket.scope.get(ABORT, lambda: None),
    )
    passes = is_passed(runtime, sent)
    # A mistake in the configuration is told before the handshake.
    configuration = Configuration.new(new_id("sess"), sent, session.expires_at)
    if not passes:
        Checking(runtime, caller, socket.headers).check(configuration)
    await socket.accept()
    if passes:
        transcribes = sent["type"] == "transcription"
        await session.serve(
            PassedSession(context, {**given, "model": sent["model"]}, session, transcribes=transcribes)
        )
    else:
        await session.serve(RealtimeSession(context, configuration, session, beta=beta))


router.routes += [WebSocketRoute(path, connect_realtime) for path in ("/v1/realtime", "/realtime")]


def first_configuration(given: Json, query: dict[str, str]) -> Json:
    """A new session's configuration: defaults, then what a client secret or the query says."""
    given = to_current(given)
    kind = given.get("type") or ("transcription" if query.get("intent") == "transcription" else "realtime")
    named = query.get("model") or named_model(given) or "auto"
    if not isinstance(named, str) or not isinstance(kind, str):
        raise InvalidRequest("'type' and 'model' are texts.", param="session")
    sent = merged(defaults(kind, named), {**given, "type": kind})
    return sent if kind == "transcription" else {**sent, "model": named}


def named_model(given: Json) -> object:
    """The model that a configuration names: of a session of transcripts, the one that transcribes."""
    if given.get("type") != "transcription":
        return given.get("model")
    found: object = given
    for name in ("audio", "input", "transcription", "model"):
        found = found.get(name) if isinstance(found, dict) else None
    return found or given.get("model")


def check_secret(runtime: Runtime, secret: ClientSecret, query: Mapping[str, str]) -> None:
    """Keep a client secret to its sessions: the address may leave out their model and type, or name the same.

    Raises NotPermitted for others, ModelNotFound for a model that is not here.
    """
    kind, asked = secret.session.get("type", "realtime"), query.get("intent")
    if asked is not None and (asked == "transcription") != (kind == "transcription"):
        raise NotPermitted(f"This client secret is for sessions of type {kind!r}: leave 'intent' out.")
    bound, named = named_model(secret.session), query.get("model")
    if not isinstance(bound, str) or named is None or named == bound:
        return
    if is_auto(named) or is_auto(bound) or not _same_model(runtime, bound, named):
        raise NotPermitted(f"This client secret is for the model {bound!r}: leave 'model' out of the address.")


def _same_model(runtime: Runtime, first: str, second: str) -> bool:
    """Whether two names stand for the same rows. Raises ModelNotFound."""
    replicas, standing = runtime.catalog.replicas, runtime.standing
    return {row.id for row in replicas(standing(first))} == {row.id for row in replicas(standing(second))}


def check_model(runtime: Runtime, caller: Caller, sent: Json) -> None:
    """Raises ModelNotFound for a model that is not here, NotPermitted for one that the key may not use."""
    name = sent.get("model")
    if name is None or is_auto(name):
        return
    rows = runtime.catalog.replicas(runtime.standing(name))
    if not any(caller.allows(row.id, runtime.catalog) for row in rows):
        raise NotPermitted.of_model(rows[0].id)


def is_passed(runtime: Runtime, sent: Json) -> bool:
    """Whether the session's model hears and speaks itself, at a provider."""
    name = sent.get("model")
    if name is None or is_auto(name):
        return False
    return any(Capability.REALTIME in row.capabilities for row in runtime.catalog.replicas(runtime.standing(name)))


def check_room(in_flight: InFlight, caller: Caller, services: Services) -> None:
    """Raises Unavailable if the server has as many sessions as it may, RateLimited if the key has."""
    settings, after = services.settings.realtime, services.settings.server.limits.retry_after
    if len(in_flight.sessions) >= settings.sessions:
        raise Unavailable(
            f"The server has its {settings.sessions} realtime sessions (realtime.sessions). Try again later.",
            retry_after=after,
        )
    own, mine = settings.sessions_per_key, sum(each.key == caller.id for each in in_flight.sessions)
    if own is not None and mine >= own:
        raise RateLimited(f"This key has its {own} realtime sessions. Close one.", retry_after=after)
    if own is None and not leaves_room(caller.id, mine, len(in_flight.sessions), settings.sessions):
        raise RateLimited(
            f"This key has {mine} realtime sessions, and the few that are left are for others "
            "(realtime.sessions_per_key sets a number). Close one.",
            retry_after=after,
        )
