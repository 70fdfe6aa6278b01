"""GET /openapi.json: the description of this API."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from catalog.errors import NotFound
from server.answers.whole import json_response
from server.edge.endpoints import endpoint
from server.edge.errors import NOTHING_HERE
from server.edge.services import services_of
from server.openapi import describe

router = APIRouter(tags=["health"])


@endpoint(router, "GET", "/openapi.json", answers=dict, raises=(NotFound,))
async def get_openapi(request: Request) -> Response:
    """This document: OpenAPI 3.1. Not found if ``[server] docs`` is off."""
    if not services_of(request).settings.server.docs:
        raise NotFound(NOTHING_HERE)
    # Generated in a thread, as it takes half a second the first time.
    return json_response(await asyncio.to_thread(describe, request.app))
