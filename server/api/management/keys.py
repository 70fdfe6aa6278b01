"""GET /v1/key: the caller's own key. /v1/admin/keys: list, create, revoke and rotate keys, for administrators."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field, StringConstraints
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.common import Finite, Identifier, OwnBody
from catalog.errors import InvalidRequest, NotFound
from catalog.types import Json
from routing.accounts.caps import CapUsage
from routing.accounts.virtual_keys import KeyInfo, KeyLimits, NewKey, VirtualKeys
from server.answers.whole import json_response
from server.callers import ANONYMOUS
from server.configuration.exposure import mark_keys
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of, services_of
from server.peers import announce_keys
from server.runtime import Runtime

router = APIRouter(tags=["keys"])
EVERYONE = "all"
"""The scope of a cap of the whole server."""
MOST = 10**15
"""The highest limit of requests or tokens."""


class CapCard(TypedDict):
    """A cap on spending in dollars and what was spent of it. ``scope`` is ``all`` or ``key/ID``."""

    scope: str
    window: str
    cap: float
    spent: float


class OwnKey(TypedDict):
    """The key of the request. ``anonymous``: the server has no keys. ``models`` is empty where all may be used.

    ``limits`` are those of a key that was created here. ``caps`` are the caps on its spending; an administrator
    sees those of the whole server, too.
    """

    object: Literal["key"]
    id: str
    name: str | None
    admin: bool
    anonymous: bool
    models: list[str]
    expires_at: float | None
    limits: Json
    caps: list[CapCard]


class KeyCard(TypedDict):
    """A key without its secret, of which ``hint`` has the first characters; times are Unix time.

    ``metrics`` marks a key that may read /metrics and nothing else.
    """

    id: str
    object: Literal["api_key"]
    name: str
    hint: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    previous_until: float | None
    admin: bool
    metrics: bool
    models: list[str]
    limits: Json
    caps: list[CapCard]


class KeyList(TypedDict):
    object: Literal["list"]
    data: list[KeyCard]


class CreatedKey(KeyCard):
    """``secret`` is the key itself; it is shown only in this answer."""

    secret: str


class KeyRequest(OwnBody):
    """``models`` are ids, patterns of ids (``openai/*``), names or aliases; without any, the key may use all.

    ``metrics`` makes a key that may read /metrics and nothing else.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    models: Annotated[list[Identifier], Field(max_length=1000)] = Field(default_factory=list)
    expires_in_days: Annotated[Finite, Field(gt=0, le=36_500)] | None = None
    admin: bool = False
    metrics: bool = False
    limits: KeyLimits = KeyLimits()


class RotateRequest(OwnBody):
    """``grace`` is how many seconds the old secret stays valid."""

    grace: Annotated[Finite, Field(ge=0, le=31_536_000)] = 0.0


@route(router, "GET", "/v1/key", Contract(answers=OwnKey, exact=True))
async def get_own_key(request: Request) -> Response:
    """Describe the key of this request: what it may use, its limits, and what it has spent of its caps."""
    caller, runtime = caller_of(request), runtime_of(request)
    info = caller.key
    limits = KeyLimits() if info is None else info.limits
    own: OwnKey = {
        "object": "key",
        "id": caller.id,
        "name": None if info is None else info.name,
        "admin": caller.admin,
        "anonymous": caller is ANONYMOUS,
        "models": [] if info is None else list(info.models),
        "expires_at": None if info is None else info.expires_at,
        "limits": limits.model_dump(mode="json"),
        "caps": [cap for cap in _caps(runtime, caller.id) if caller.admin or cap["scope"] != EVERYONE],
    }
    return json_response(own)


@route(router, "GET", "/v1/admin/keys", Contract(answers=KeyList, admin=True))
async def list_keys(request: Request) -> Response:
    """List the keys that were created here, also revoked and expired ones, without those of the settings."""
    runtime = runtime_of(request)
    return json_response({"object": "list", "data": [_card(info, runtime) for info in _keys(runtime).list()]})


@route(router, "POST", "/v1/admin/keys", Contract(reads=KeyRequest, answers=CreatedKey, admin=True))
async def create_key(request: Request, body: KeyRequest) -> Response:
    """Create a key. The server's first is an admin key, because every request needs a key from then on."""
    runtime = runtime_of(request)
    keys = _keys(runtime)
    if caller_of(request) is ANONYMOUS and not (body.admin or body.metrics):
        raise InvalidRequest(
            "The first key closes the server to requests without one: make it an admin key ('admin': true).",
            param="admin",
        )
    _check_bounds(body.limits)
    days = body.expires_in_days
    made = await keys.create(
        body.name,
        models=tuple(body.models),
        limits=body.limits,
        expires_at=None if days is None else runtime.spend.now() + days * 86_400,
        admin=body.admin,
        metrics=body.metrics,
    )
    if keys.any_calls:
        mark_keys(services_of(request).settings)
    await announce_keys(runtime)
    return _created(made, runtime)


@route(
    router,
    "POST",
    "/v1/admin/keys/{key_id}/rotate",
    Contract(reads=RotateRequest, optional=True, answers=CreatedKey, admin=True, raises=(InvalidRequest,)),
)
async def rotate_key(request: Request, key_id: str, body: RotateRequest) -> Response:
    """Give a key a new secret."""
    runtime = runtime_of(request)
    made = await _keys(runtime).rotate(key_id, grace=body.grace)
    await announce_keys(runtime)
    return _created(made, runtime)


@route(router, "DELETE", "/v1/admin/keys/{key_id}", Contract(answers=KeyCard, admin=True))
async def revoke_key(request: Request, key_id: str) -> Response:
    """Revoke a key for ever. It stays in the list, for its usage."""
    runtime = runtime_of(request)
    revoked = await _keys(runtime).revoke(key_id)
    await announce_keys(runtime)
    return json_response(_card(revoked, runtime))


def _check_bounds(limits: KeyLimits) -> None:
    """Raises InvalidRequest for a limit that no counter can hold."""
    for name, rate in (("requests", limits.requests), ("tokens", limits.tokens)):
        if any(limit > MOST for _, limit in rate.windows):
            raise InvalidRequest(f"A limit of {name} is at most {MOST}.", param=f"limits.{name}")


def _created(made: NewKey, runtime: Runtime) -> Response:
    return json_response(
        {**_card(made.info, runtime), "secret": made.secret}, headers={"cache-control": "no-store"}
    )


def _card(info: KeyInfo, runtime: Runtime) -> Json:
    return {**info.public(), "object": "api_key", "caps": _caps(runtime, info.id)}


def _caps(runtime: Runtime, key: str) -> list[CapCard]:
    return [_cap(cap) for cap in runtime.spend.cap_usage(key)]


def _cap(cap: CapUsage) -> CapCard:
    return {"scope": cap.scope, "window": cap.window.value, "cap": cap.cap, "spent": cap.spent}


def _keys(runtime: Runtime) -> VirtualKeys:
    if runtime.keys is None:
        raise NotFound("This server keeps no keys.")
    return runtime.keys
