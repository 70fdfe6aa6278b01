"""Keeps memory and state together: what changed here goes there, what others changed comes here.

The parts of the router work in memory. Every ``interval`` their changes are put into the state (which
writes them behind), and once more at the end, so that a restart finds what was learned. Nothing that is
stored can keep the router from starting: a part passes over what it does not understand.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import structlog
from pydantic import BaseModel, ConfigDict, Field

from routing.accounts.spend import Spend
from routing.accounts.virtual_keys import VirtualKeys
from routing.clock import Clock
from routing.outcomes import Outcome
from routing.state.protocol import State


class Part(Protocol):
    """Something with documents of one kind: breakers, provider keys, the estimator, pins.

    ``export`` answers the documents that changed since it was last asked (``None``: gone). ``adopt`` takes
    over what an earlier run or another gateway stored; it must not raise for a document that is damaged.
    """

    @property
    def kind(self) -> str: ...

    def export(self) -> Mapping[str, Any]: ...

    def adopt(self, documents: Mapping[str, Any]) -> None: ...


class PersistenceSettings(BaseModel):
    """How often, and for how long things are kept. Seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    interval: float = Field(default=1.0, gt=0, description="between two exchanges with the store")
    keep_outcomes: float = Field(default=30 * 86_400.0, gt=0, description="age at which outcomes are forgotten")
    prune_every: float = Field(default=3600.0, gt=0)


class Persistence:
    """``start`` reads everything, ``run`` keeps it together until cancelled, ``stop`` writes the rest."""

    def __init__(
        self,
        state: State,
        settings: PersistenceSettings,
        clock: Clock,
        *,
        parts: Sequence[Part],
        spend: Spend,
        keys: VirtualKeys,
    ) -> None:
        self._state = state
        self._settings = settings
        self._clock = clock
        self._parts = tuple(parts)
        self._spend = spend
        self._keys = keys
        self._pruned = clock.monotonic()
        self._troubled = False
        self._log = structlog.get_logger("roundhouse.state")

    async def start(self) -> None:
        """Open the state and hand every part what is stored of it. Raises ConfigurationError as the state does."""
        await self._state.start()
        await self._spend.start()
        await self._keys.start()
        await self._adopt()

    def record(self, outcome: Outcome) -> None:
        """Keep an outcome for reports: persistence is an :class:`routing.outcomes.OutcomeSink`."""
        self._state.remember(outcome)

    async def run(self) -> None:
        """Exchange changes until cancelled. Trouble with the store is logged once, and never ends this."""
        while True:
            await asyncio.sleep(self._settings.interval)
            await self.exchange()

    async def exchange(self) -> None:
        """One exchange, both ways."""
        try:
            self._export()
            await self._spend.refresh()
            await self._keys.sync()
            await self._adopt()
            if self._clock.monotonic() - self._pruned >= self._settings.prune_every:
                self._pruned = self._clock.monotonic()
                wall = self._clock.wall()
                await self._state.prune(outcomes_before=wall - self._settings.keep_outcomes, now=wall)
        except OSError as error:
            if not self._troubled:
                self._troubled = True
                self._log.error("state.not_exchanged", error=str(error), will="try again")
        else:
            self._troubled = False

    async def stop(self) -> None:
        """Write what has changed since, and close the state."""
        with contextlib.suppress(OSError):
            self._export()
            await asyncio.wait_for(self._keys.sync(), timeout=2.0)
        await self._state.close()

    def _export(self) -> None:
        for part in self._parts:
            for name, document in part.export().items():
                self._state.put(part.kind, name, document)

    async def _adopt(self) -> None:
        for part in self._parts:
            documents = await self._state.documents(part.kind)
            if documents:
                part.adopt(documents)
