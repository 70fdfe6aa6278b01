"""GET /health (this process lives) and GET /ready (it takes requests). Neither wants a key."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from catalog.errors import Unavailable
from server.answers.whole import json_response
from server.services import services_of

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> Response:
    """Alive. Says nothing of models, so that a model's fault never restarts the gateway."""
    return json_response({"status": "ok"})


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Ready for requests; 503 while starting and from the first moment of shutting down."""
    services = services_of(request)
    services.in_flight.check_open()
    if services.runtime is None:
        raise Unavailable("The server is starting.", retry_after=1)
    return json_response({"status": "ready"})
