"""GET /v1/admin/report and the pins of embeddings, for administrators."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from backends.wire.common import Identifier, WireModel
from catalog.errors import CapabilityMismatch, InvalidRequest, ModelNotFound, NotFound
from catalog.model import Capability
from routing.choosing.pins import Pins
from routing.choosing.policy import is_auto
from server.answers.whole import json_response
from server.edge.endpoints import endpoint
from server.edge.services import Runtime, runtime_of, services_of
from server.report import Report, report

router = APIRouter(tags=["admin"])


class Pin(WireModel):
    """Pins an alias of embeddings to ``model``; without ``model`` it unpins the alias."""

    alias: Identifier
    model: Identifier | None = None


class PinList(TypedDict):
    """``pins`` maps each pinned alias to its model."""

    object: Literal["pins"]
    pins: dict[str, str]


class PinChange(TypedDict):
    """The model of the alias now, and ``before`` the change."""

    object: Literal["pin"]
    alias: str
    model: str | None
    before: str | None


@endpoint(router, "GET", "/v1/admin/report", answers=Report, admin=True)
async def get_report(request: Request) -> Response:
    """Models, providers, defaults, coverage, four canned requests, priors and speech."""
    return json_response(report(runtime_of(request), services_of(request).settings.routing))


@endpoint(router, "GET", "/v1/admin/pins", answers=PinList, admin=True)
async def list_pins(request: Request) -> Response:
    """The model that each pinned alias of embeddings stands for."""
    return json_response({"object": "pins", "pins": dict(_pins(runtime_of(request)).current)})


@endpoint(router, "POST", "/v1/admin/pins", reads=Pin, answers=PinChange, admin=True)
async def set_pin(request: Request, body: Pin) -> Response:
    """Pin or unpin an alias of embeddings. Vectors made before and after a change do not compare."""
    runtime = runtime_of(request)
    pins, alias = _pins(runtime), body.alias.casefold()
    before = pins.current.get(alias)
    if body.model is None:
        if not pins.unpin(alias):
            raise NotFound(f"'{body.alias}' is not pinned.", param="alias")
    else:
        row = runtime.catalog.resolve(body.model)
        if Capability.EMBED not in row.capabilities:
            raise CapabilityMismatch(f"'{row.id}' cannot embed, so nothing can be pinned to it.", param="model")
        _check_alias(runtime, body.alias)
        pins.pin(alias, row.id, change=True)
    return json_response({"object": "pin", "alias": alias, "model": pins.current.get(alias), "before": before})


def _check_alias(runtime: Runtime, alias: str) -> None:
    """Raises InvalidRequest for a name of a single model."""
    if is_auto(alias):
        return
    try:
        choice = len(runtime.catalog.replicas(alias)) > 1
    except ModelNotFound:
        choice = False
    if not choice:
        raise InvalidRequest(
            f"Only 'auto' (or 'auto:fast' and the like) and names of several models can be pinned, not '{alias}'.",
            param="alias",
        )


def _pins(runtime: Runtime) -> Pins:
    if runtime.insight is None:
        raise NotFound("This server keeps no pins.")
    return runtime.insight.pins
