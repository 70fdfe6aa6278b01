"""GET /v1/admin/log: the end of the server's own log, for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import PlainTextResponse, Response

from backends.wire.common import AS_COUNT, WireModel
from server.edge.contracts import Contract, route
from server.edge.services import runtime_of
from server.observability.logging import KEPT_LINES
from server.peers import recent_log

router = APIRouter(tags=["system"])


class ServerLogQuery(WireModel):
    """``lines`` counts from the end of the log."""

    lines: Annotated[int, Field(ge=1, le=KEPT_LINES), AS_COUNT] = 200


@route(router, "GET", "/v1/admin/log", Contract(query=ServerLogQuery, media={"text/plain": str}, admin=True))
async def server_log(request: Request, query: ServerLogQuery) -> Response:
    """The last lines that the gateway processes logged since they started, without the workers' own."""
    return PlainTextResponse("\n".join(await recent_log(runtime_of(request), query.lines)))
