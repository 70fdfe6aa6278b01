"""``create_app(settings)`` builds the ASGI app of one gateway."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp

from routing.calling.answer import CHOICE_HEADERS
from routing.reading.stand_ins import StandIns
from server.advising.upgrades import Upgrades
from server.api import ROUTERS
from server.api.console import CONSOLE_PATHS
from server.callers import Authenticator
from server.configuration.capped_keys import tell_unbound_caps
from server.configuration.exposure import check_exposure, check_lost_keys, mark_keys, may_allow_anonymous
from server.edge.admission import InFlight
from server.edge.auth import Keys
from server.edge.errors import as_error, error_response
from server.edge.gate import Gate
from server.edge.proxies import behind_proxies
from server.edge.routes import Shortcut, to_its_route
from server.edge.services import Services
from server.observability.metrics import Metrics
from server.observability.open_telemetry import open_telemetry
from server.observability.telemetry import Telemetry
from server.runtime import Runtime
from server.settings import STATE_FILE, ServerSettings, Settings

VERSION = "0.1.0"

OpenRuntime = Callable[[Settings, Metrics], AbstractAsyncContextManager[Runtime]]


class _App(FastAPI):
    """FastAPI with a shortcut to the routes of the hot path, behind the proxies of the settings."""

    server: ServerSettings

    def build_middleware_stack(self) -> ASGIApp:
        direct: ASGIApp = to_its_route
        for layer in reversed(self.user_middleware):
            direct = layer.cls(direct, *layer.args, **layer.kwargs)
        shortcut = Shortcut(super().build_middleware_stack(), direct, self.routes)
        return behind_proxies(shortcut, self.server)


def create_app(
    settings: Settings,
    *,
    runtime: Runtime | None = None,
    open_runtime: OpenRuntime | None = None,
    authenticator: Authenticator | None = None,
    clock: Callable[[], float] = time.monotonic,
    telemetry: Telemetry | None = None,
) -> FastAPI:
    """The ASGI app of one gateway.

    ``open_runtime`` builds the parts behind the gate when the app starts and takes them down when it stops;
    without it the real one does. Tests pass a ready ``runtime`` instead. ``app.state.services`` holds what was
    built; ``app.state.begin_drain()`` makes readiness false and refuses new requests.

    ``telemetry`` makes spans; by default the settings decide whether there are any.

    Raises ConfigurationError when it would be open to strangers, or traces are wanted and their packages missing.
    """
    telemetry = telemetry or open_telemetry(settings.telemetry, version=VERSION)
    may_have_keys = settings.state.url is not None or (settings.data_dir / STATE_FILE).exists()
    if runtime is not None or not may_have_keys:
        check_exposure(settings)  # else it is known at start-up, when the state has said whether there are keys
    in_flight = InFlight(settings.server.limits)
    metrics = Metrics(lambda: in_flight.count, lambda: in_flight.draining, lambda: len(in_flight.sessions))
    services = Services(
        settings=settings,
        authenticator=authenticator
        or Keys(
            settings,
            lambda: services.runtime.keys if services.runtime else None,
            allow_anonymous=may_allow_anonymous(settings.server),
        ),
        in_flight=in_flight,
        metrics=metrics,
        clock=clock,
        created=int(time.time()),
        upgrades=Upgrades(settings),
    )
    app = _App(
        title="Roundhouse",
        description="One OpenAI-compatible door in front of every engine.",
        version=VERSION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(services, runtime, open_runtime, telemetry),
        exception_handlers={HTTPException: _http_error},
        redirect_slashes=False,
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
        },  # ours are in server.observability
    )
    app.server = settings.server
    app.state.services = services
    app.state.begin_drain = in_flight.begin_drain
    for router in ROUTERS:  # include_router would put a layer of matching before each route
        app.router.routes.extend(router.routes)
    hidden = _switched_off(settings)
    app.router.routes[:] = [its for its in app.routes if getattr(its, "path", None) not in hidden]
    _add_middleware(app, services, telemetry)
    return app


def _switched_off(settings: Settings) -> frozenset[str]:
    """The paths that these settings do not serve."""
    console = frozenset() if settings.server.console else CONSOLE_PATHS
    return console if settings.server.docs else console | {"/openapi.json", "/docs"}


def _add_middleware(app: FastAPI, services: Services, telemetry: Telemetry | None) -> None:
    app.add_middleware(Gate, services=services)
    if telemetry is not None:
        app.add_middleware(telemetry.middleware)
    cors = services.settings.server.cors
    if cors.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors.origins,
            allow_credentials=cors.credentials,
            allow_methods=("GET", "POST", "DELETE", "OPTIONS"),
            allow_headers=("*",),
            expose_headers=("x-request-id", "x-roundhouse-estimate", "x-roundhouse-usage-lag", *CHOICE_HEADERS),
        )


def _lifespan(
    services: Services, runtime: Runtime | None, open_runtime: OpenRuntime | None, telemetry: Telemetry | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        opening = open_runtime or _real_runtime
        async with (
            telemetry.running() if telemetry is not None else nullcontext(),
            _ready(runtime) if runtime is not None else opening(services.settings, services.metrics) as parts,
        ):
            if telemetry is not None and parts.attach is not None:
                parts.attach(telemetry)
            has_keys = parts.keys is not None and parts.keys.any_calls
            check_exposure(services.settings, virtual_keys=has_keys)
            if has_keys:
                mark_keys(services.settings)
            else:
                check_lost_keys(services.settings)
            tell_unbound_caps(services.settings, parts.keys)
            # Workers that several processes share are reported once, by their owner.
            collector = services.metrics.watch(parts.pool) if parts.scrape is None else None
            parts.traffic = services.in_flight
            parts.stand_ins = StandIns(services.settings.routing.stand_ins)
            services.runtime = parts
            try:
                yield
            finally:
                services.in_flight.begin_drain()
                if collector is not None:
                    services.metrics.registry.unregister(collector)
                services.runtime = None

    return lifespan


@asynccontextmanager
async def _ready(runtime: Runtime) -> AsyncIterator[Runtime]:
    yield runtime


def _real_runtime(settings: Settings, metrics: Metrics) -> AbstractAsyncContextManager[Runtime]:
    from server.assembly import open_runtime

    return open_runtime(settings, metrics)


def _methods_at(request: Request) -> list[str]:
    """The methods of all routes of a path; the router names those of the first alone."""
    routes = [its for its in request.app.routes if its.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for its in routes for method in getattr(its, "methods", None) or ()})


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer unknown paths and methods in OpenAI's shape."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        error = HTTPException(405, headers={"Allow": ", ".join(_methods_at(request))})
    typed = as_error(error)
    services: Any = request.app.state.services
    services.metrics.error(typed.code)
    response = error_response(typed, request.scope)
    allow = (getattr(error, "headers", None) or {}).get("Allow")
    if allow:
        response.headers["Allow"] = allow
    return response
