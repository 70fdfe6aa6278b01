"""The running parts behind the gate, as the rest of the server sees them. Nothing here knows HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from backends.pictures.redrawing import Redrawer
from backends.workers.pool import WorkerPool
from catalog.catalog import Catalog
from catalog.errors import ModelNotFound
from catalog.model import Endpoint, Model
from catalog.types import Json
from routing.accounts.spend import Spend
from routing.accounts.virtual_keys import VirtualKeys
from routing.beliefs.estimator import Estimator
from routing.beliefs.learning import Learner
from routing.calling.answer import Answer
from routing.calling.hops import Hops
from routing.calling.job import Job
from routing.calling.traces import Traces
from routing.choosing.pins import Pins
from routing.deferred.calls import DeferredCalls
from routing.facts import Facts
from routing.outcomes import Usage
from routing.plan import NOT_SET_UP, Block, Plan
from routing.reading.intent import is_auto
from routing.reading.stand_ins import StandIn, StandIns
from routing.upstreams.circuit import CircuitState
from routing.upstreams.provider_keys import KeyStatistics
from server.callers import Caller
from server.storage.files import Files
from server.storage.runner import Runner
from server.storage.sounds import HeardSounds
from server.storage.storage import Storage

if TYPE_CHECKING:
    from server.library import Library
    from server.models.pulls import Pulls
    from server.models.registry import Registry
    from server.observability.telemetry import Telemetry
    from server.settings import Settings

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class Dispatches(Protocol):
    """The methods of :class:`routing.calling.dispatcher.Dispatcher` that handlers use."""

    def open(self, job: Job[T]) -> AbstractAsyncContextManager[Answer[T]]: ...

    def explain(self, facts: Facts) -> Plan: ...


@runtime_checkable
class Books(Protocol):
    """A dispatcher that also books what was done without it; those of batches, which hold no sessions, do not."""

    def book(self, job: Job[Any], usage: Usage, came: int = 0) -> None: ...


class Samples(Protocol):
    """Takes samples of answers; see :mod:`server.probing.sampling`."""

    def watched(
        self, job: Job[T], opening: AbstractAsyncContextManager[Answer[T]]
    ) -> AbstractAsyncContextManager[Answer[T]]:
        """The same opening, or one whose answer is watched."""
        ...


class Peers(Protocol):
    """The other gateway processes; see :mod:`server.peers`."""

    async def ask(self, question: Json) -> Any:
        """The first answer that is not ``None``; ``None`` if no process knows."""
        ...

    async def ask_all(self, question: Json) -> list[Any]:
        """The answer of each process that has one."""
        ...


class PullsFirst(Protocol):
    """Pulls a model before a job that names it; see :mod:`server.models.on_use`."""

    @property
    def enabled(self) -> bool: ...

    def lacking(self, facts: Facts) -> str | None:
        """The name to pull of the model that a request names, if only its files are missing."""
        ...

    def first(
        self, name: str, caller: Caller, facts: Facts, opening: AbstractAsyncContextManager[Answer[T]]
    ) -> AbstractAsyncContextManager[Answer[T]]:
        """The opening, once the model is here."""
        ...

    async def fetch(self, name: str, caller: Caller) -> None:
        """Wait until the model is here. Raises ModelUnavailable."""
        ...


class Traffic(Protocol):
    """The requests of clients to models: how many are at work, and how many there have been."""

    @property
    def working(self) -> int: ...

    @property
    def asked(self) -> int: ...


class HasCatalog(Protocol):
    """Holds the catalogue in force; ``current`` is replaced when it changes."""

    current: Catalog


@dataclass(frozen=True, slots=True)
class Insight:
    """The router's state for reports; ``pins`` may be changed by an administrator."""

    estimator: Estimator
    pins: Pins
    key_statistics: Callable[[], tuple[KeyStatistics, ...]]
    circuit: Callable[[Model], CircuitState]


@dataclass(slots=True)
class Runtime:
    """The parts behind the gate; tests put in their own.

    ``downloaded``, ``has_key`` and ``unavailable`` are facts about a row now. ``reload``
    applies the rows of new settings. ``attach`` connects telemetry to outcomes and upstream calls. ``scrape``
    returns the metrics of all gateway processes, where there are several, and of the workers that they share.
    ``peers`` are the other gateway processes, where there are any. ``looked`` tells whether the sources of
    models were asked for the first time, or did not answer in time. ``storage`` keeps objects of callers,
    ``files`` their files; ``runner`` does the work that goes on after a request, and ``library`` pulls and removes
    models. ``registry`` has the rows that were registered over HTTP, ``pulls`` those in the background, and
    ``on_use`` those that requests cause. ``deferred`` makes calls through the batch APIs of providers. ``samples``
    takes answers for the judge. ``fault`` asks what keeps an endpoint from being called, such as missing
    credentials of a cloud. ``traffic`` counts the requests of clients; the app sets it. ``hops`` refuses
    those that came through this server before. ``stand_ins`` are those of the settings, of which :meth:`stand_in`
    says which apply. ``heard`` has what sounds of chats said, for a while. ``redrawer`` turns
    photographs upright.
    """

    live: HasCatalog
    pool: WorkerPool
    dispatcher: Dispatches
    downloaded: Callable[[Model], bool]
    has_key: Callable[[Model], bool]
    unavailable: Callable[[Model], Block | None]
    traces: Traces
    learner: Learner
    spend: Spend
    storage: Storage
    files: Files
    runner: Runner | None = None
    fault: Callable[[Endpoint], Awaitable[str | None]] | None = None
    keys: VirtualKeys | None = None
    reload: Callable[[Settings], Awaitable[None]] | None = None
    insight: Insight | None = None
    attach: Callable[[Telemetry], None] | None = None
    scrape: Callable[[], Awaitable[bytes]] | None = None
    peers: Peers | None = None
    looked: Callable[[], bool] = lambda: True
    library: Library | None = None
    registry: Registry | None = None
    pulls: Pulls | None = None
    on_use: PullsFirst | None = None
    deferred: DeferredCalls | None = None
    samples: Samples | None = None
    traffic: Traffic | None = None
    hops: Hops | None = None
    stand_ins: StandIns = field(default_factory=lambda: StandIns({}))
    heard: HeardSounds = field(default_factory=HeardSounds)
    redrawer: Redrawer = field(default_factory=Redrawer)

    @property
    def catalog(self) -> Catalog:
        """The catalogue in force."""
        return self.live.current

    def stand_in(self, name: str) -> StandIn | None:
        """The stand-in for a name; ``None`` without one, and where a model of that name is set up here.

        Raises ModelNotFound for a stand-in that does not exist.
        """
        found = self.stand_ins(name) if self.stand_ins else None
        if found is None or self._is_set_up(name):
            return None
        if not is_auto(found.target) and not self.catalog.knows(found.target):
            raise ModelNotFound.of_stand_in(*found)
        return found

    def replaced(self, body: M) -> tuple[M, StandIn | None]:
        """A body with the model that stands in for its own, if one does. Raises as :meth:`stand_in`."""
        name: Any = getattr(body, "model", None) if self.stand_ins else None
        found = self.stand_in(name) if isinstance(name, str) else None
        return (body, None) if found is None else (body.model_copy(update={"model": found.target}), found)

    def standing(self, name: str) -> str:
        """The name, or that of its stand-in. Raises as :meth:`stand_in`."""
        found = self.stand_in(name)
        return name if found is None else found.target

    def _is_set_up(self, name: str) -> bool:
        """Whether a model of this name lacks nothing that a change of the set-up would bring: a key, its files."""
        try:
            rows = self.catalog.replicas(name)
        except ModelNotFound:
            return False
        return any(map(self._is_complete, rows))

    def has_models(self) -> bool:
        """Whether some model is set up, though it may be resting or busy at present."""
        return any(map(self._is_complete, self.catalog.models()))

    def _is_complete(self, row: Model) -> bool:
        block = self.unavailable(row)
        return block is None or block.code not in NOT_SET_UP
