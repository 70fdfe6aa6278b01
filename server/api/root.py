"""GET /: where a stranger who found the address can go on reading."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.answers.whole import json_response
from server.services import services_of

router = APIRouter(tags=["health"])


@router.get("/")
async def root(request: Request) -> Response:
    """What this is, and the paths worth asking next."""
    docs = services_of(request).settings.server.docs
    return json_response(
        {
            "name": "Roundhouse",
            "version": request.app.version,
            "base_url": f"{str(request.base_url).rstrip('/')}/v1",
            "models": "/v1/models",
            "endpoints": "/openapi.json" if docs else None,
            "explain": "/v1/route",
            "health": "/health",
            "ready": "/ready",
            "metrics": "/metrics",
        }
    )
