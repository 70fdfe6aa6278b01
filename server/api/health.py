"""GET /health (the process is alive) and GET /ready (it accepts requests). Neither needs a key."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from catalog.errors import Unavailable
from server.answers.whole import json_response
from server.edge.endpoints import endpoint
from server.edge.services import services_of

router = APIRouter(tags=["health"])


class Health(TypedDict):
    status: str


@endpoint(router, "GET", "/health", answers=Health, open=True)
async def health(request: Request) -> Response:
    """Alive. Independent of models, so that a model's fault never restarts the gateway."""
    del request
    return json_response({"status": "ok"})


@endpoint(router, "GET", "/ready", answers=Health, open=True)
async def ready(request: Request) -> Response:
    """Ready for requests; 503 while starting and from the first moment of shutting down."""
    services = services_of(request)
    services.in_flight.check_open()
    if services.runtime is None:
        raise Unavailable("The server is starting.", retry_after=1)
    return json_response({"status": "ready"})
