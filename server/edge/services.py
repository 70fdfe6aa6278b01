"""The parts that handlers work with: built once per app, reached through the request's scope, never global."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request
from starlette.types import Scope

from routing.calling import hops
from server.runtime import Runtime
from server.scope import SERVICES

if TYPE_CHECKING:
    from server.advising.upgrades import Upgrades
    from server.callers import Authenticator
    from server.edge.admission import InFlight
    from server.observability.metrics import Metrics
    from server.settings import Settings

T = TypeVar("T")
_HOPS = hops.HEADER.encode()
_NOTHING = nullcontext()


@dataclass(slots=True)
class Services:
    """The parts of one app. ``runtime`` is set from start-up to shutdown; ``created`` is Unix seconds."""

    settings: Settings
    authenticator: Authenticator
    in_flight: InFlight
    metrics: Metrics
    clock: Callable[[], float]
    created: int
    upgrades: Upgrades
    runtime: Runtime | None = None


def services_of(request: Request) -> Services:
    """The services of the app that serves this request."""
    services: Services = request.scope[SERVICES]
    return services


def runtime_of(request: Request) -> Runtime:
    """The running parts behind the gate."""
    runtime = services_of(request).runtime
    assert runtime is not None, "a request came before start-up or after shutdown"
    return runtime


def passing(services: Services, scope: Scope) -> AbstractContextManager[None]:
    """Refuse a request that came through this server before, and keep the ids of others for its calls."""
    runtime = services.runtime
    found = [value for name, value in scope["headers"] if name == _HOPS]
    if not found or runtime is None or runtime.hops is None:
        return _NOTHING
    return runtime.hops.passing(b", ".join(found).decode("latin-1"))
