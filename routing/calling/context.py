"""The services that the dispatcher lends to its attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from backends.base import Upstream
from catalog.model import Model
from routing.accounts.spend import Spend
from routing.calling.lease import Lease
from routing.clock import Clock
from routing.facts import Facts
from routing.outcomes import Outcome
from routing.plan import Candidate


class LeasesCalls(Protocol):
    """The methods of :class:`routing.calling.lease.Leases` that an attempt uses."""

    async def acquire(
        self,
        held: AsyncExitStack,
        facts: Facts,
        candidate: Candidate,
        now: float,
        *,
        longest: int | None = None,
        spent: float = 0.0,
        provider_key: str | None = None,
    ) -> Lease: ...

    def target(self, model: Model) -> Upstream | None: ...


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """The services of one attempt.

    ``backend`` finds the backend for an upstream, a capability protocol and a row, or raises CapabilityMismatch.
    ``record`` publishes the attempt's outcome. ``spawn`` starts a task that outlives the request.
    """

    leases: LeasesCalls
    spend: Spend
    clock: Clock
    backend: Callable[[Upstream, type, Model], Any]
    record: Callable[[Outcome], None]
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
