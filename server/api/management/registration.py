"""POST /v1/models: administrators register and change rows of the catalogue while the server runs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from backends.wire.common import ModelName, WireModel
from catalog.errors import NotFound, Unavailable
from catalog.types import Json
from server.answers.whole import json_response
from server.api.management.models import ModelCard, describe, row_guard
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of, services_of

router = APIRouter(tags=["models"])


class ModelRow(WireModel):
    """A row of the catalogue, with the fields of a ``[[model]]`` of the settings; further ones than these, too.

    It is merged over the row of this id (JSON merge patch): ``null`` removes a field. ``source`` is
    ``hub:OWNER/REPOSITORY[:QUANTISATION]``, an absolute path of a file or folder, or an object. ``endpoint`` is
    the server of a remote model, with the fields of an ``[[endpoint]]``, if it is a new one. What a GGUF file or a
    model's folder says of itself need not be given.
    """

    id: ModelName
    source: str | dict[str, Any] | None = None
    endpoint: dict[str, Any] | None = None
    capabilities: list[str] | None = None
    engine: str | None = None
    aliases: list[str] | None = None
    options: dict[str, Any] | None = Field(default=None, description="of the engine")


@route(
    router,
    "POST",
    "/v1/models",
    Contract(reads=ModelRow, answers=ModelCard, admin=True, raises=(NotFound, Unavailable)),
)
async def register_model(request: Request, body: ModelRow) -> Response:
    """Register a model, or change one. It is in force in every gateway at once and after a restart."""
    services, runtime = services_of(request), runtime_of(request)
    registry, guard = runtime.registry, row_guard(request)
    if registry is None or guard is None:
        raise NotFound("This server registers no models.")
    given: Json = body.to_wire()
    endpoint = given.pop("endpoint", None)
    settled = {str(table.get("id", "")).lower() for table in services.settings.model}
    row = await registry.register(given, endpoint, guard, settled=settled)
    views = {view.model: view for view in runtime.pool.snapshot().models}
    card = describe(row, views.get(row.id), runtime, services.created, runtime.unavailable(row))
    return json_response(card)
