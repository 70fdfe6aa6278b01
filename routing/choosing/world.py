"""The world as the policy sees it: plain values, taken at one moment, with no I/O behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backends.workers.pool import PoolSnapshot
from routing.plan import Block

if TYPE_CHECKING:
    from catalog.index import Index
    from routing.beliefs.estimator import Estimator


@dataclass(frozen=True, slots=True)
class World:
    """What a choice depends on besides the request.

    ``index`` is the catalogue, compiled for quick filters. ``blocked`` holds, by model id, only the models that
    cannot be used now: not pulled, engine missing, breaker open, no key that works, does not fit. ``headroom``
    is the dollars that the caller may still spend, ``None`` without a cap. ``pins`` name the one model that an
    alias stands for (``auto`` embeddings). ``queued_ahead`` gives, by model id, the calls ahead of a new one
    where its endpoint is at its limit. ``now`` is of the monotonic clock; ``wall`` of the wall clock, by
    which failures are forgiven (``None``: they are not).
    """

    index: Index
    estimator: Estimator
    now: float
    pool: PoolSnapshot = field(default_factory=PoolSnapshot)
    blocked: Mapping[str, Block] = field(default_factory=dict)
    headroom: float | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
    queued_ahead: Mapping[str, float] = field(default_factory=dict)
    wall: float | None = None
