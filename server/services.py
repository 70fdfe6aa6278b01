"""What the handlers work with: built once per app, reached through the request, never global."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from starlette.requests import Request

from backends.workers.pool import WorkerPool
from catalog.catalog import Catalog
from catalog.model import Model
from routing.breaker import CircuitState
from routing.dispatch import Answer, Job
from routing.estimate import Estimator
from routing.facts import Facts
from routing.keys import KeyStatistics
from routing.learning import Learner
from routing.pins import Pins
from routing.plan import Plan
from routing.spend import Spend
from routing.traces import Traces
from routing.virtual_keys import VirtualKeys

if TYPE_CHECKING:
    from server.admission import InFlight
    from server.auth import Authenticator
    from server.metrics import Metrics
    from server.settings import Settings
    from server.telemetry import Telemetry

T = TypeVar("T")
SERVICES = "roundhouse.services"
"""Where the gate puts the app's :class:`Services` in a request's scope."""


class Dispatches(Protocol):
    """What the handlers ask of :class:`routing.dispatch.Dispatcher`."""

    def open(self, job: Job[T]) -> AbstractAsyncContextManager[Answer[T]]: ...

    def explain(self, facts: Facts) -> Plan: ...


@dataclass(frozen=True, slots=True)
class Insight:
    """What a report shows of the router's insides; ``pins`` may be changed by an administrator."""

    estimator: Estimator
    pins: Pins
    key_statistics: Callable[[], tuple[KeyStatistics, ...]]
    circuit: Callable[[Model], CircuitState]


@dataclass(slots=True)
class House:
    """The parts behind the gate; tests put their own in.

    ``downloaded``, ``has_key`` and ``unavailable`` (the reason, or ``None``) are facts about a row now.
    ``attach`` lets a maker of spans hear of outcomes and speak to upstreams.
    ``catalog`` is a snapshot; a newer one takes its place here, and ``reload`` puts new settings' rows in it.
    ``scrape`` answers for all gateway processes where there are several, and for the workers that they share.
    """

    catalog: Catalog
    pool: WorkerPool
    dispatcher: Dispatches
    downloaded: Callable[[Model], bool]
    has_key: Callable[[Model], bool]
    unavailable: Callable[[Model], str | None]
    traces: Traces
    learner: Learner
    spend: Spend
    keys: VirtualKeys | None = None
    reload: Callable[[Settings], Awaitable[None]] | None = None
    insight: Insight | None = None
    attach: Callable[[Telemetry], None] | None = None
    scrape: Callable[[], Awaitable[bytes]] | None = None


@dataclass(slots=True)
class Services:
    """One app's parts. ``house`` is there from start-up to shutdown; ``created`` is Unix seconds."""

    settings: Settings
    authenticator: Authenticator
    in_flight: InFlight
    metrics: Metrics
    clock: Callable[[], float]
    created: int
    house: House | None = None


def services_of(request: Request) -> Services:
    """The services of the app that this request came to."""
    services: Services = request.scope[SERVICES]
    return services


def house_of(request: Request) -> House:
    """The running house behind the gate."""
    house = services_of(request).house
    assert house is not None, "a request came before start-up or after shutdown"
    return house
