"""GET /, /openapi.json, /health, /ready and /metrics: the server itself."""

from __future__ import annotations

import asyncio
from typing import NotRequired

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response
from typing_extensions import TypedDict

from catalog.errors import NoModels, NotPermitted, Unavailable
from server.answers.whole import json_response
from server.api.console import page
from server.edge.callers import caller_of
from server.edge.contracts import Contract, route
from server.edge.services import services_of
from server.openapi import describe
from server.ui.pages import wants_page

router = APIRouter(tags=["system"])


class Welcome(TypedDict):
    """``base_url`` is the address for OpenAI clients; the other fields are paths."""

    name: str
    version: str
    base_url: str
    models: str
    endpoints: str | None
    console: str | None
    reference: str | None
    explain: str
    health: str
    ready: str
    metrics: str


@route(router, "GET", "/", Contract(answers=Welcome), "/api/hello")
async def root(request: Request) -> Response:
    """The server's name, its version, and the paths to ask next; a browser gets a page. A HEAD needs no key."""
    server = services_of(request).settings.server
    at_root = not request.scope["path"].endswith("/api/hello")
    if server.console and at_root and wants_page(request.headers):
        welcome = await page(request, "welcome.html")
        welcome.headers["vary"] = "accept"
        return welcome
    root = request.scope.get("root_path", "")
    return json_response(
        {
            "name": "Roundhouse",
            "version": request.app.version,
            "base_url": f"{str(request.base_url).rstrip('/')}/v1",
            "models": f"{root}/v1/models",
            "endpoints": f"{root}/openapi.json" if server.docs else None,
            "console": f"{root}/ui" if server.console else None,
            "reference": f"{root}/docs" if server.docs and server.console else None,
            "explain": f"{root}/v1/route",
            "health": f"{root}/health",
            "ready": f"{root}/ready",
            "metrics": f"{root}/metrics",
        },
        headers={"vary": "accept"},
    )


@route(router, "GET", "/openapi.json", Contract(answers=dict))
async def get_openapi(request: Request) -> Response:
    """This document: OpenAPI 3.1. There is none if ``[server] docs`` is off."""
    # Generated in a thread, as it takes half a second the first time.
    document = await asyncio.to_thread(describe, request.app)
    if root := request.scope.get("root_path"):
        document = {**document, "servers": [{"url": root}]}
    return json_response(document)


class Health(TypedDict):
    """``state`` is there while this process cannot write the state, such as on a full disk: answers go on."""

    status: str
    state: NotRequired[str]


@route(router, "GET", "/health", Contract(answers=Health, open=True))
async def health(request: Request) -> Response:
    """Alive. Independent of models, so that a model's fault never restarts the gateway."""
    runtime = services_of(request).runtime
    if runtime is not None and runtime.spend.lag:
        return json_response({"status": "ok", "state": f"not written for {runtime.spend.lag:.0f} seconds"})
    return json_response({"status": "ok"})


@route(router, "GET", "/ready", Contract(answers=Health, open=True))
async def ready(request: Request) -> Response:
    """Ready for requests; 503 while starting, until the sources of models were asked, while no model is set up
    (`no_models`: requests that manage the server are answered all the same), and from the first moment of shutting
    down.
    """
    services = services_of(request)
    services.in_flight.check_open()
    if services.runtime is None:
        raise Unavailable("The server is starting.", retry_after=1)
    if not services.runtime.looked():
        raise Unavailable("The server is starting: it asks which models there are.", retry_after=1)
    if not services.runtime.has_models():
        raise NoModels(
            "No model can answer. Pull one (roundhouse pull starter), name one in the settings, or set a "
            "provider's key."
        )
    return json_response({"status": "ready"})


@route(router, "GET", "/metrics", Contract(media={"text/plain": str}, raises=(NotPermitted,)))
async def metrics(request: Request) -> Response:
    """Every metric in Prometheus' text format; the sum over all gateway processes.

    They tell of every key's requests and of all models, so an admin key is needed, or one for metrics.
    """
    services, caller = services_of(request), caller_of(request)
    if not (caller.admin or caller.metrics):
        raise NotPermitted("This needs an admin key, or one for metrics: roundhouse keys create NAME --metrics.")
    scrape = services.runtime.scrape if services.runtime is not None else None
    text = services.metrics.render() if scrape is None else await scrape()
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})
