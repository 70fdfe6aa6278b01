"""Questions that the server itself asks of models, as background work: to measure them, or to judge answers.

They are ordinary jobs of the caller that they are made for, within the limits of its key; see
:attr:`routing.facts.Facts.probe` for what is learned from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any, TypeVar

from catalog.errors import BudgetExceeded, ModelUnavailable, PriceUnknown
from routing.calling.answer import Answer
from routing.calling.job import Job
from routing.facts import Facts, Workload
from routing.plan import OVER_BUDGET
from server.answers.whole import Assembler, assemble
from server.callers import Caller, Origin
from server.jobs import open_job, permitted
from server.runtime import Runtime

T = TypeVar("T")
_OF_MONEY = ("cost", OVER_BUDGET)
"""Codes of exclusions by a limit on cost."""


class PurseEmpty(BudgetExceeded):
    """The dollars that were set aside for probes do not pay for this one."""


class Purse:
    """Dollars for probes, of which up to ``takers`` are asked at a time. No probe may cost more than its grant.

    The grants that are out never exceed what is left, so the whole is never overspent.
    """

    def __init__(self, dollars: float, *, takers: int = 1) -> None:
        self.left = dollars
        self.spent = 0.0
        self._takers = takers
        self._out = 0
        self._held = 0.0

    @contextmanager
    def grant(self) -> Iterator[float]:
        """The dollars that one probe may cost, while the block lasts; :meth:`pay` books what it did cost."""
        share = max(0.0, self.left - self._held) / max(1, self._takers - self._out)
        self._out += 1
        self._held += share
        try:
            yield share
        finally:
            self._out -= 1
            self._held -= share

    def pay(self, dollars: float) -> None:
        """Book the cost of a probe."""
        self.left -= dollars
        self.spent += dollars


@dataclass(frozen=True, slots=True)
class Probed:
    """The assembled answer of a probe, the model that gave it, its seconds and its dollars."""

    value: Any
    model: str
    trace: str
    first: float
    total: float


class Prober:
    """Asks probes for one caller, paid from one purse."""

    def __init__(self, runtime: Runtime, caller: Caller, purse: Purse, *, limits: Facts | None = None) -> None:
        """``limits`` are facts whose limits on models (of the key, tags, exclusions, privacy) hold for probes."""
        self.runtime = runtime
        self.purse = purse
        self._caller = caller
        self._limits = limits

    def origin(self) -> Origin:
        """The origin of a new probe."""
        return Origin(self._caller, token_hex(16))

    async def ask(self, job: Job[T], assembler: Callable[[], Assembler[T]]) -> Probed:
        """Carry out a job as a probe.

        Raises PurseEmpty if it may cost more than the purse grants, PriceUnknown if its cost cannot be bounded,
        else the job's error.
        """
        with self.purse.grant() as most:
            wanted = job.facts.intent.max_cost
            limit = most if wanted is None else min(most, wanted)
            intent = replace(job.facts.intent, workload=Workload.BACKGROUND, max_cost=limit)
            facts = self._limited(replace(job.facts, intent=intent, probe=True, prompt_digest=""))
            self.check(facts)
            job = replace(job, facts=facts, judge=None)
            return await self._carry_out(job, assembler, most)

    async def _carry_out(self, job: Job[T], assembler: Callable[[], Assembler[T]], most: float) -> Probed:
        began = time.perf_counter()
        answer: Answer[T] | None = None
        try:
            async with open_job(self.runtime, job, self._caller) as answer:
                first = time.perf_counter() - began
                value = await assemble(answer, assembler)
            return Probed(value, answer.model.id, job.trace, first, time.perf_counter() - began)
        finally:
            self.purse.pay(self._spent_on(job.trace, most) if answer is None else answer.spent)

    def _spent_on(self, trace: str, most: float) -> float:
        """The dollars of the attempts at a probe that had no answer; the most that it might cost if unknown."""
        found = self.runtime.traces.get(trace)
        return most if found is None else sum(attempt["cost"] or 0.0 for attempt in found["attempts"])

    def _limited(self, facts: Facts) -> Facts:
        if self._limits is None:
            return facts
        intent, given = facts.intent, self._limits.intent
        intent = replace(intent, local_only=given.local_only, exclude=given.exclude, tags=given.tags)
        return replace(facts, intent=intent, allowed=self._limits.allowed)

    def check(self, facts: Facts) -> None:
        """Raises PurseEmpty, PriceUnknown, NotPermitted or ModelUnavailable if no model may answer a probe."""
        plan = self.runtime.dispatcher.explain(permitted(facts, self._caller, self.runtime.catalog))
        if plan.candidates:
            return
        limits = [exclusion for exclusion in plan.excluded if exclusion.code in _OF_MONEY]
        if limits:
            raise PurseEmpty(f"'{limits[0].model}': {limits[0].reason}.")
        unknown = [exclusion for exclusion in plan.excluded if exclusion.code == PriceUnknown.code]
        if unknown:
            raise PriceUnknown(f"'{unknown[0].model}': {unknown[0].reason}.")
        if self._limits is not None:
            raise ModelUnavailable("The limits of the request leave no model for this.")
        if facts.requested.startswith("auto") or not plan.excluded:
            raise ModelUnavailable(f"No model here can answer a {facts.capability.value} request.")
