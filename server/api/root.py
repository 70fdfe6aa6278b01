"""GET /: the server's name and the paths to read next."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from server.answers.whole import json_response
from server.edge.endpoints import endpoint
from server.edge.services import services_of

router = APIRouter(tags=["health"])


class Welcome(TypedDict):
    """``base_url`` is the address for OpenAI clients; the other fields are paths."""

    name: str
    version: str
    base_url: str
    models: str
    endpoints: str | None
    explain: str
    health: str
    ready: str
    metrics: str


@endpoint(router, "GET", "/", answers=Welcome)
async def root(request: Request) -> Response:
    """The server's name, its version, and the paths to ask next."""
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
