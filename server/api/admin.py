"""GET /v1/admin/report and the pins of embeddings: what an administrator sees and decides of the router."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from backends.wire.common import Identifier, WireModel
from catalog.errors import CapabilityMismatch, InvalidRequest, ModelNotFound, NotFound
from catalog.model import Capability
from routing.choosing.pins import Pins
from routing.choosing.policy import is_auto
from server.answers.whole import json_response
from server.edge.auth import require_admin
from server.edge.bodies import read_json
from server.report import report
from server.services import Runtime, runtime_of, services_of

router = APIRouter(tags=["admin"])


class Pin(WireModel):
    """The model that an alias of embeddings stands for from now on; without ``model`` it is free again."""

    alias: Identifier
    model: Identifier | None = None


@router.get("/v1/admin/report")
async def get_report(request: Request) -> Response:
    """Models, providers, defaults, coverage, four canned requests, priors and speech. Needs an admin key."""
    require_admin(request)
    return json_response(report(runtime_of(request), services_of(request).settings.routing))


@router.get("/v1/admin/pins")
async def list_pins(request: Request) -> Response:
    """Which model each alias of embeddings stands for. Needs an admin key."""
    require_admin(request)
    return json_response({"object": "pins", "pins": dict(_pins(runtime_of(request)).current)})


@router.post("/v1/admin/pins")
async def set_pin(request: Request) -> Response:
    """Change what an alias of embeddings stands for: vectors made before and after do not compare.

    Needs an admin key.
    """
    require_admin(request)
    body = await read_json(request, Pin)
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
    """Raises InvalidRequest for a name that leaves nothing to choose."""
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
