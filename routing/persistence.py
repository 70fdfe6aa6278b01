"""Synchronises what the router holds in memory with the shared state, in both directions.

Breakers, provider keys, pins and the estimator work in memory. Every ``interval`` their changed documents are put
into the state (which writes them in the background) and those of other gateways are read; the last changes are
written at the end. A stored document cannot keep the router from starting: an invalid one is skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import structlog
from pydantic import Field

from catalog.validation.section import Section
from routing.accounts.spend import Spend
from routing.accounts.virtual_keys import VirtualKeys
from routing.clock import Clock
from routing.outcomes import Outcome
from routing.state.protocol import Counter, State


class Persistable(Protocol):
    """A component whose memory is stored as JSON documents of one kind, by name.

    ``export`` returns the documents that changed since its last call (``None``: delete it). ``adopt`` merges
    documents that an earlier run or another gateway stored; it must not raise for a damaged one.
    """

    @property
    def kind(self) -> str: ...

    def export(self) -> Mapping[str, Any]: ...

    def adopt(self, documents: Mapping[str, Any]) -> None: ...


class Counted(Protocol):
    """A component with counts that add up over gateways and restarts, by name.

    ``export_counts`` returns what was added since its last call, ``adopt_counts`` gets the sums.
    """

    @property
    def kind(self) -> str: ...

    def export_counts(self) -> Mapping[str, int]: ...

    def adopt_counts(self, totals: Mapping[str, int]) -> None: ...


class PersistenceSettings(Section):
    """Intervals of the exchange with the store and the retention of outcomes, in seconds."""

    interval: float = Field(default=1.0, gt=0, description="seconds between two exchanges with the store")
    keep_outcomes: float = Field(
        default=30 * 86_400.0, gt=0, description="age in seconds at which outcomes are deleted"
    )
    prune_every: float = Field(default=3600.0, gt=0, description="seconds between two deletions of old outcomes")


class Persistence:
    """``start`` reads the state, ``run`` synchronises until cancelled, ``stop`` writes the last changes."""

    def __init__(
        self,
        state: State,
        settings: PersistenceSettings,
        clock: Clock,
        *,
        parts: Sequence[Persistable],
        spend: Spend,
        keys: VirtualKeys,
        counted: Sequence[Counted] = (),
        first_wins: Sequence[Persistable] = (),
    ) -> None:
        """Of ``first_wins`` a stored document holds against a new one: they adopt before they export."""
        self._state = state
        self._settings = settings
        self._clock = clock
        self._parts = (*first_wins, *parts)
        self._first_wins = tuple(first_wins)
        self._counted = tuple(counted)
        self._spend = spend
        self._keys = keys
        self._pruned_at = clock.monotonic()
        self._failing = False
        self._log = structlog.get_logger("roundhouse.state")

    def configure(self, settings: PersistenceSettings) -> None:
        """Use other intervals, after the present one."""
        self._settings = settings

    async def start(self) -> None:
        """Open the state and load every part from it. Raises ConfigurationError as the state does."""
        await self._state.start()
        await self._spend.start()
        await self._keys.start()
        await self._adopt(self._parts)
        await self._adopt_counts()

    def record(self, outcome: Outcome) -> None:
        """Store an outcome for reports; persistence is an :class:`~routing.outcomes.OutcomeSink`."""
        self._state.add_outcome(outcome)

    async def run(self) -> None:
        """Exchange changes until cancelled. A failing store is logged once and does not end the loop."""
        while True:
            await asyncio.sleep(self._settings.interval)
            await self.exchange()

    async def exchange(self) -> None:
        """Write the changes of this process and read those of others, once."""
        try:
            await self._adopt(self._first_wins)
            self._export()
            await self._spend.refresh()
            await self._keys.sync()
            await self._adopt(self._parts)
            await self._adopt_counts()
            if self._clock.monotonic() - self._pruned_at >= self._settings.prune_every:
                self._pruned_at = self._clock.monotonic()
                wall = self._clock.wall()
                await self._state.prune(outcomes_before=wall - self._settings.keep_outcomes, now=wall)
        except OSError as error:
            if not self._failing:
                self._failing = True
                self._log.error("state.not_exchanged", error=str(error), will="try again")
        else:
            self._failing = False

    async def stop(self) -> None:
        """Write the last changes and close the state."""
        with contextlib.suppress(OSError):
            self._export()
            self._keys.close()
        await self._state.close()

    def _export(self) -> None:
        for part in self._parts:
            for name, document in part.export().items():
                self._state.put(part.kind, name, document)
        for counts in self._counted:
            for name, amount in counts.export_counts().items():
                self._state.count((Counter(f"{counts.kind}/{name}"),), amount)

    async def _adopt(self, parts: Sequence[Persistable]) -> None:
        for part in parts:
            documents = await self._state.documents(part.kind)
            if documents:
                part.adopt(documents)

    async def _adopt_counts(self) -> None:
        for counts in self._counted:
            prefix = f"{counts.kind}/"
            totals = await self._state.counts(prefix)
            counts.adopt_counts({name.removeprefix(prefix): total for name, total in totals.items()})
