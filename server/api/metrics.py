"""GET /metrics, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from server.services import services_of

router = APIRouter(tags=["metrics"])


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Everything measured, in Prometheus' text format; the sum of all gateway processes."""
    services = services_of(request)
    scrape = services.runtime.scrape if services.runtime is not None else None
    text = services.metrics.render() if scrape is None else await scrape()
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})
