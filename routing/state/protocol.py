"""The protocol of the state, implemented on SQLite and on Redis.

:class:`State` holds what must outlive the process or be shared by gateways: counters of spend and rate limits,
usage per key and model, outcomes, and small documents by kind (learned posteriors, open breakers, resting keys,
virtual keys, pins, traces).

``put``, ``count``, ``charge`` and ``add_outcome`` return at once; the writes follow in the background, in order
and in batches. Only ``hold``, for calls under a spending cap, and ``claim``, for keys with limits, make a
request wait.

**Money.** Amounts are whole nano-dollars, so that sums are exact. A :class:`Hold` is checked against the limits of
its counters, added to them and stored in one transaction, *before* the call is made. A :class:`Charge` replaces it
by the call's cost, also in one transaction. If the process is killed in between, the hold stays and its amount
still counts, because the call may have been made. ``recover`` turns such holds into usage that is marked as
estimated.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import orjson
import psutil

from routing.outcomes import Outcome
from routing.prefix import Prefix
from routing.state.records import Records

NANO = 1_000_000_000
"""Nano-dollars in a dollar."""


@dataclass(frozen=True, slots=True)
class Counter:
    """A number that is changed by atomic additions in the store. ``limit`` is its maximum; ``None``: no limit.

    ``name`` has scope and window (``spend/all/day/2026-11-22``). The store may delete it at ``expires_at`` (wall
    clock; ``None``: never).
    """

    name: str
    limit: int | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Money reserved for one call: ``amount`` nano-dollars on each of ``counters``, by the process ``owner``."""

    id: str
    owner: str
    at: float
    day: str
    amount: int
    counters: tuple[Counter, ...]
    key: str
    model: str
    endpoint: str


class Claim(NamedTuple):
    """``amount`` to add to a counter within its limit, then as much of ``optional`` as there is room for, and up
    to ``extra`` of a sixteenth of the room then left."""

    counter: Counter
    amount: int
    extra: int = 0
    optional: int = 0

    def granted(self, total: int) -> int | None:
        """The amount that may be added to a counter at ``total``; ``None`` if the amount itself does not fit."""
        if self.counter.limit is None:
            return self.amount + self.optional + self.extra
        room = self.counter.limit - total - self.amount
        if room < 0 or total >= self.counter.limit:
            return None
        optional = min(self.optional, room)
        return self.amount + optional + min(self.extra, (room - optional) // EXTRA_SHARE)


EXTRA_SHARE = 16


class Claimed(NamedTuple):
    """The result of :meth:`State.claim`, by position of the claims.

    ``refused`` is the position of a claim that did not fit, and then nothing was added. ``granted`` are the
    amounts added, ``totals`` the counters afterwards.
    """

    refused: int | None
    granted: tuple[int, ...]
    totals: tuple[int, ...]


class UsageRow(NamedTuple):
    """Usage of one model by one key on one UTC day; amounts add up.

    ``cost`` is the sum of known costs and known parts of costs, in nano-dollars. ``unknown`` counts the calls of
    whose cost a part is unknown, and ``estimated`` is the sum reserved for these parts; the caps count both.
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
"""The fields of :class:`UsageRow` that are sums."""


ONCE = 3 * 86_400
"""Seconds for which a charge that counts once is remembered: longer than a batch of a provider lives."""
LASTING = "lasting"
"""The owner of holds that outlive their process: the work that they are for releases them."""
_LONGEST = 40 * 86_400.0


class Charge(NamedTuple):
    """The cost of a call. If ``hold`` still exists, its amount is taken off ``counters`` again.

    A charge with the name ``once`` and no hold is left out if one of that name was made in the last ``ONCE``
    seconds.
    """

    hold: str | None
    counters: tuple[Counter, ...]
    amount: int
    usage: UsageRow
    once: str | None = None


@dataclass(frozen=True, slots=True)
class OutcomeQuery:
    """Selects outcomes of one trace, or from ``since`` to before ``until`` (wall clock); newest first."""

    trace: str | None = None
    since: float = 0.0
    until: float = float("inf")
    limit: int = 1000


class State(Protocol):
    """A store. One event loop uses it, between ``start`` and ``close``."""

    @property
    def records(self) -> Records:
        """The objects that callers own."""
        ...

    @property
    def generation(self) -> int:
        """Increases when a damaged store was replaced by an empty one: put what is in memory again."""
        ...

    @property
    def lag(self) -> float:
        """Seconds for which nothing could be written; 0 while writes succeed. Reads miss what waits."""
        ...

    async def start(self) -> None:
        """Open or create the store. A damaged one is set aside with a warning and replaced by an empty one.

        Raises ConfigurationError when no store can be opened (folder not writable, no server).
        """
        ...

    async def close(self) -> None:
        """Write what is pending, within a few seconds, and close."""
        ...

    async def flush(self) -> None:
        """Return when everything written so far survives the death of this process."""
        ...

    def put(self, kind: str, name: str, document: Any, *, expires_at: float | None = None) -> None:
        """Store a JSON document under (kind, name); ``None`` deletes it. In the background."""
        ...

    async def store(self, kind: str, name: str, document: Any) -> None:
        """Store a JSON document under (kind, name), which survives the death of this process when this returns.

        Raises Unavailable when the store does not answer in time (:data:`routing.state.records.STORE_TIMEOUT`);
        the document is then not stored, also not later, except if the store had begun to.
        """
        ...

    async def document(self, kind: str, name: str) -> Any:
        """One document, or ``None``."""
        ...

    async def documents(self, kind: str) -> dict[str, Any]:
        """The documents of a kind, by name; expired and unreadable ones are left out."""
        ...

    def count(self, counters: Sequence[Counter], amount: int, *, urgent: bool = False) -> None:
        """Add to each counter, regardless of its limit. In the background; at once if it is ``urgent``."""
        ...

    async def claim(self, claims: Sequence[Claim], timeout: float) -> Claimed:
        """Add every claim to its counter, or none if one does not fit, in one transaction.

        Raises TimeoutError when the store does not answer within ``timeout`` seconds, and ConnectionError. The
        claims are then not added, except if the store had begun to.
        """
        ...

    async def counts(self, prefix: str) -> dict[str, int]:
        """The counters whose names begin with ``prefix``."""
        ...

    async def hold(self, hold: Hold, timeout: float) -> Counter | None:
        """Reserve money if every counter stays within its limit; else return the counter that would not.

        If the store does not answer within ``timeout`` seconds, the hold is taken unchecked and written when the
        store is back; the caller has checked it against its own totals.
        """
        ...

    def charge(self, charge: Charge) -> asyncio.Future[None]:
        """Settle a call. The future, which need not be awaited, is done when the charge is durable."""
        ...

    async def recover(self, abandoned: Callable[[str, float], bool]) -> int:
        """Turn the holds for which ``abandoned(owner, at)`` is true into estimated usage; returns their number."""
        ...

    async def usage(self, first_day: str, last_day: str) -> list[UsageRow]:
        """Usage between two ISO dates, inclusive, ordered by day, model, endpoint and key."""
        ...

    def add_outcome(self, outcome: Outcome) -> None:
        """Store an outcome for reports, in the background; dropped first when the store is stuck."""
        ...

    async def outcomes(self, query: OutcomeQuery) -> list[dict[str, Any]]:
        """Outcomes as JSON objects with the fields of :class:`routing.outcomes.Outcome`."""
        ...

    async def prune(self, *, outcomes_before: float, now: float) -> None:
        """Delete outcomes before a wall time, and counters, documents and records that have expired."""
        ...


def encode(document: Any) -> bytes:
    """Encode a document or a dataclass as JSON; sets become sorted lists."""
    return orjson.dumps(document, default=_as_json)


def decode(body: bytes | str) -> Any:
    """Decode JSON. Raises ValueError."""
    return orjson.loads(body)


def _as_json(value: Any) -> Any:
    if isinstance(value, (frozenset, set)):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Prefix):
        return None  # it is of use to the request alone
    raise TypeError(f"{type(value).__name__} is not JSON")


def process_name() -> str:
    """A unique name of this process: ``host/pid/start``."""
    pid = os.getpid()
    return f"{socket.gethostname()}/{pid}/{psutil.Process(pid).create_time():.2f}"


def owner_is_gone(owner: str, at: float, *, now: float, after: float = 3600.0) -> bool:
    """Whether the process that made a hold can no longer settle it.

    A process of this host is looked up. One of another host counts as gone after ``after`` seconds, which is
    longer than any call may take. A ``LASTING`` hold is that of lost work after 40 days.
    """
    if owner == LASTING:
        return now - at > _LONGEST
    host, _, rest = owner.rpartition("/")
    host, _, pid = host.rpartition("/")
    if host != socket.gethostname() or not pid.isdecimal():
        return now - at > after
    try:
        # Setting the clock moves the start time that the system reports; a pid is not reused within seconds.
        started = float(psutil.Process(int(pid)).create_time())
        return abs(started - float(rest)) > 10.0
    except (psutil.AccessDenied, ValueError):
        return now - at > after
    except psutil.NoSuchProcess:
        return True
