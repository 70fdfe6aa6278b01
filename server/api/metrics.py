"""GET /metrics, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from server.edge.endpoints import endpoint
from server.edge.services import services_of

router = APIRouter(tags=["metrics"])


@endpoint(router, "GET", "/metrics", media={"text/plain": str})
async def metrics(request: Request) -> Response:
    """Every metric in Prometheus' text format; the sum over all gateway processes."""
    services = services_of(request)
    scrape = services.runtime.scrape if services.runtime is not None else None
    text = services.metrics.render() if scrape is None else await scrape()
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})
