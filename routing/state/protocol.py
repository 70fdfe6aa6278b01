"""Where the router remembers: one protocol, with a home in SQLite and one in Redis.

What must outlive the process or be shared by several gateways goes through :class:`State`: spend and rate
limits (counters), what every model cost whom (usage), what happened (outcomes), and small documents of one
kind or another (learned posteriors, open breakers, resting keys, virtual keys, pins, traces).

Nothing here is on a request's path unless a spending cap is: ``put``, ``count``, ``charge`` and ``remember``
return at once and are written behind, in order, in batches. ``hold`` alone is awaited.

**Money.** Amounts are whole nano-dollars, so that sums are exact. A :class:`Hold` is checked against its
counters' limits, added to them and journaled in one transaction, *before* the call is made; a
:class:`Charge` takes the hold away and leaves what the call did cost, in one transaction too. A process that
is killed in between leaves the hold behind, and its amount still counted: the call may have been made, so
the cap stays safe. ``recover`` turns such holds into usage that is marked as estimated.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import orjson
import psutil

from routing.outcomes import Outcome

NANO = 1_000_000_000
"""Nano-dollars in a dollar."""


@dataclass(frozen=True, slots=True)
class Counter:
    """A number that only the store changes. ``limit`` is what it may reach; ``None`` only counts.

    ``name`` says what and when (``spend/all/day/2026-11-22``). The store may forget it at ``expires_at``
    (wall clock; ``None``: never).
    """

    name: str
    limit: int | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Money set aside for one call: ``amount`` nano-dollars on each of ``counters``, by ``owner``."""

    id: str
    owner: str
    at: float
    day: str
    amount: int
    counters: tuple[Counter, ...]
    key: str
    model: str
    endpoint: str


class UsageRow(NamedTuple):
    """What one key used of one model on one UTC day; amounts add up.

    ``cost`` is what is known, in nano-dollars. ``unknown`` counts the calls whose cost is not known, and
    ``estimated`` is what was set aside for those, which is what the caps go by.
    """

    day: str
    model: str
    endpoint: str
    key: str
    calls: int = 0
    unknown: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    units: float = 0.0
    cost: int = 0
    estimated: int = 0


USAGE_SUMS = (
    "calls",
    "unknown",
    "input",
    "output",
    "cached",
    "reasoning",
    "units",
    "cost",
    "estimated",
)
"""The fields of :class:`UsageRow` that add up."""


class Charge(NamedTuple):
    """What a call came to. If ``hold`` is still there, its amount is taken off ``counters`` again."""

    hold: str | None
    counters: tuple[Counter, ...]
    amount: int
    usage: UsageRow


@dataclass(frozen=True, slots=True)
class OutcomeQuery:
    """Which outcomes to read: of one trace, or from ``since`` to before ``until`` (wall clock); newest first."""

    trace: str | None = None
    since: float = 0.0
    until: float = float("inf")
    limit: int = field(default=1000)


class State(Protocol):
    """A home for what is remembered. One event loop uses it, between ``start`` and ``close``."""

    @property
    def generation(self) -> int:
        """Goes up when a damaged store was replaced by a fresh one: what is in memory should be put again."""
        ...

    async def start(self) -> None:
        """Open, create or migrate. A damaged store is set aside with a warning and begun afresh.

        Raises ConfigurationError when there can be no store at all (folder not writable, no server).
        """
        ...

    async def close(self) -> None:
        """Write what is left, within a few seconds, and let go."""
        ...

    async def flush(self) -> None:
        """Return when all that was handed over so far survives the death of this process."""
        ...

    def put(self, kind: str, name: str, document: Any, *, expires_at: float | None = None) -> None:
        """Keep a JSON document under (kind, name); ``None`` deletes it. Written behind."""
        ...

    async def document(self, kind: str, name: str) -> Any:
        """One document, or ``None``."""
        ...

    async def documents(self, kind: str) -> dict[str, Any]:
        """The documents of a kind, by name; expired and unreadable ones are left out."""
        ...

    def count(self, counters: Sequence[Counter], amount: int) -> None:
        """Add to each counter, whatever its limit. Written behind."""
        ...

    async def counts(self, prefix: str) -> dict[str, int]:
        """The counters whose names begin so."""
        ...

    async def hold(self, hold: Hold, patience: float) -> Counter | None:
        """Set money aside if every counter stays within its limit; else answer the counter that would not.

        If the store does not answer within ``patience`` seconds the hold stands, unchecked, and is written
        when the store is back; the caller has checked it against what it knew.
        """
        ...

    def charge(self, charge: Charge) -> asyncio.Future[None]:
        """Settle. The future is done when it survives the death of this process; nobody has to await it."""
        ...

    async def recover(self, abandoned: Callable[[str, float], bool]) -> int:
        """Turn the holds for which ``abandoned(owner, at)`` into estimated usage. Answers how many."""
        ...

    async def usage(self, first_day: str, last_day: str) -> list[UsageRow]:
        """Usage from one ISO date to another, both included, in order of day, model, endpoint and key."""
        ...

    def remember(self, outcome: Outcome) -> None:
        """Keep an outcome for reports. Written behind; the first thing to be dropped when the store is stuck."""
        ...

    async def outcomes(self, query: OutcomeQuery) -> list[dict[str, Any]]:
        """Outcomes as JSON objects with the fields of :class:`routing.outcomes.Outcome`."""
        ...

    async def prune(self, *, outcomes_before: float, now: float) -> None:
        """Forget outcomes older than a moment, and counters and documents that have expired."""
        ...


def encode(document: Any) -> bytes:
    """JSON of a document or a dataclass; sets become sorted lists."""
    return orjson.dumps(document, default=_as_json)


def decode(body: bytes | str) -> Any:
    """The document of some JSON. Raises ValueError."""
    return orjson.loads(body)


def _as_json(value: Any) -> Any:
    if isinstance(value, (frozenset, set)):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def this_process() -> str:
    """A name for this process that no other process has had: ``host/pid/start``."""
    pid = os.getpid()
    return f"{socket.gethostname()}/{pid}/{psutil.Process(pid).create_time():.2f}"


def is_gone(owner: str, at: float, *, now: float, after: float = 3600.0) -> bool:
    """Whether the process that made a hold can no longer settle it.

    On this host that is certain at once. Another host's process is given up ``after`` seconds, which is
    longer than any call may take.
    """
    host, _, rest = owner.rpartition("/")
    host, _, pid = host.rpartition("/")
    if host != socket.gethostname() or not pid.isdecimal():
        return now - at > after
    try:
        # A clock that is set moves the start that the system reports; nobody reuses a pid so soon.
        started = float(psutil.Process(int(pid)).create_time())
        return abs(started - float(rest)) > 10.0
    except (psutil.AccessDenied, ValueError):
        return now - at > after
    except psutil.NoSuchProcess:
        return True
