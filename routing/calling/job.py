"""A job: one request to be answered by some model, with no HTTP in it.

A handler, a batch runner, a WebSocket session and a test make the same job in the same way; the dispatcher
carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from backends.wire.common import WireModel
from routing.calling.bounds import Bound
from routing.calling.operations import Operation
from routing.calling.watching.judgement import MakeJudge
from routing.facts import Facts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """One request: the facts that the router decides by, and what a backend is asked.

    ``request`` is the validated body. ``trace`` is the id under which attempts are recorded. ``judge`` creates
    one validator per attempt; its verdict goes into the outcome, and with ``escalate`` in the caller's intent an
    invalid answer is held back and the next candidate is asked. ``left_out`` names what the caller sent and no
    model is given, and ``kept`` the parameters that no server needs to take: stored here, or the operation's own.
    ``provider_key`` is the digest of the key that its call must carry.
    ``bound`` is the longest answer by the limits of the caller's key. A ``further`` job serves a request for which
    another did before: it belongs to the same trace, and ``spent`` are the dollars that those before it cost,
    which limits on cost count too. A job that is not ``counted`` is a part of a request that its key's limit of
    requests has counted before; its tokens and dollars count as those of any.
    """

    facts: Facts
    operation: Operation[T]
    request: WireModel
    trace: str
    judge: MakeJudge | None = None
    left_out: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    bound: Bound | None = None
    further: bool = False
    spent: float = 0.0
    counted: bool = True
    provider_key: str | None = None

    def without_kept(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The names of parameters that are not stored here."""
        return tuple(name for name in names if name not in self.kept) if self.kept else names
