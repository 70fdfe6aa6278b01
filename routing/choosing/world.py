"""The snapshot that the policy decides on, without I/O.

A decision is deterministic for a given snapshot, settings and random generator. The estimator and the
memory of prefixes are the live ones: they refresh their caches while they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from backends.workers.pool import PoolSnapshot
from catalog.index import Index
from routing.beliefs.estimator import Estimator
from routing.beliefs.prefixes import PrefixMemory
from routing.plan import Block


@dataclass(frozen=True, slots=True)
class World:
    """Everything that a choice depends on besides the request and the settings.

    ``index`` is the compiled catalogue. ``blocked`` holds, by model id, only the models that cannot be used now:
    not pulled, engine missing, breaker open, no usable key. ``headroom`` is the dollars that the caller may still
    spend, ``None`` without a cap. ``pins`` maps an alias of embeddings to its model; the mapping is live.
    ``queued_ahead`` gives, by model id, the calls ahead of a new one where the endpoint is at its limit. ``now``
    is monotonic time; ``wall`` is wall-clock time, with which failures fade (``None``: they do not).
    ``key_capped`` tells, for embeddings, whether the caller's key has spending caps
    of its own. ``unknown_price_allowed`` tells whether spending caps let a model of unknown price answer.
    ``prefixes`` tells which models hold the beginning of a prompt in their caches.
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
    key_capped: bool = False
    unknown_price_allowed: bool = False
    prefixes: PrefixMemory | None = None
