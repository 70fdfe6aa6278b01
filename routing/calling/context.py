"""The services that the dispatcher lends to its attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from backends.base import Upstream
from catalog.model import Model
from routing.accounts.spend import Spend
from routing.calling.lease import Leases
from routing.clock import Clock
from routing.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """The services of one attempt.

    ``backend`` finds the backend for an upstream, a capability protocol and a row, or raises CapabilityMismatch.
    ``record`` publishes the attempt's outcome. ``spawn`` starts a task that outlives the request.
    """

    leases: Leases
    spend: Spend
    clock: Clock
    backend: Callable[[Upstream, type, Model], Any]
    record: Callable[[Outcome], None]
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
