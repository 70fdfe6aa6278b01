"""Questions that the server itself asks of models, as background work: to measure them, or to judge answers.

They are ordinary jobs of the caller that they are made for, within the limits of its key; see
:attr:`routing.facts.Facts.probe` for what is learned from them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any, TypeVar

import numpy as np

from catalog.errors import BudgetExceeded, ModelUnavailable, PriceUnknown
from routing.calling.answer import Answer
from routing.calling.job import Job
from routing.choosing.filters import GENERATES, most_dollars
from routing.facts import Facts, Mode, Workload
from routing.plan import OVER_BUDGET
from routing.reading.intent import is_auto
from server.answers.whole import Assembler, assemble
from server.callers import Caller, Origin
from server.jobs import open_job, permitted
from server.runtime import Runtime

T = TypeVar("T")
_OF_MONEY = ("cost", OVER_BUDGET)
"""Codes of exclusions by a limit on cost."""
_MARGIN = 1.001
"""Held beyond the most that a probe may cost, as its attempt reckons in whole nano-dollars."""


class PurseEmpty(BudgetExceeded):
    """The dollars that were set aside for probes do not pay for this one."""


class Purse:
    """Dollars for probes. Each holds the most that it may cost while it runs, so the whole is never overspent."""

    def __init__(self, dollars: float) -> None:
        self.left = dollars
        self.spent = 0.0
        self._held: list[float] = []
        self._returned = asyncio.Condition()

    @asynccontextmanager
    async def grant(self, need: float) -> AsyncIterator[float]:
        """The dollars that one probe may cost, while the block lasts; :meth:`pay` books what it did cost.

        They are ``need``, or all that is left if that is less. A probe waits for others that hold too much of it.
        """
        async with self._returned:
            await self._returned.wait_for(lambda: not self._held or need <= self.left - sum(self._held))
            share = max(0.0, min(need, self.left))
            self._held.append(share)
        try:
            yield share
        finally:
            self._held.remove(share)
            async with self._returned:
                self._returned.notify_all()

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
        async with self.purse.grant(self.most(job.facts)) as most:
            wanted = job.facts.intent.max_cost
            facts = self.check(job.facts, most if wanted is None else min(most, wanted))
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

    def most(self, facts: Facts) -> float:
        """The most that a probe may cost in dollars with any model that it names, as far as prices are known.

        An answer without a bound counts as all that is left: the call bounds it by that.
        """
        insight = self.runtime.insight
        if insight is None or (facts.output_tokens is None and facts.capability in GENERATES):
            return self.purse.left
        estimator = insight.estimator
        if not len(estimator.index):
            self.runtime.dispatcher.explain(facts)  # the first plan compiles the index
        named = None if is_auto(facts.requested) else estimator.index.meant(facts.requested)
        local = facts.intent.local_only or facts.intent.mode is Mode.LOCAL
        kept = estimator.index.private if local else np.ones(len(estimator.index), dtype=bool)
        rows = np.flatnonzero(kept) if named is None else np.array(named, dtype=int)
        output = None if facts.output_tokens is None else float(facts.output_tokens)
        costs = most_dollars(facts, estimator, output)[rows]
        return _MARGIN * float(np.max(costs, initial=0.0, where=np.isfinite(costs)))

    def check(self, facts: Facts, dollars: float) -> Facts:
        """The facts of a probe that may cost so many dollars, within the limits on models.

        Raises PurseEmpty, PriceUnknown, NotPermitted or ModelUnavailable if no model may answer it.
        """
        need = self.most(facts)
        intent = replace(facts.intent, workload=Workload.BACKGROUND, max_cost=dollars)
        facts = self._limited(replace(facts, intent=intent, probe=True, prompt_digest=""))
        plan = self.runtime.dispatcher.explain(permitted(facts, self._caller, self.runtime.catalog))
        if plan.candidates:
            return facts
        limits = [exclusion for exclusion in plan.excluded if exclusion.code in _OF_MONEY]
        if limits:
            told = f"'{limits[0].model}': {limits[0].reason}."
            if limits[0].code != OVER_BUDGET:
                left, whole = self.purse.left, self.purse.spent + need
                told += f" Of the budget ${left:.6f} is left; one more question needs ${whole:.6f} in all."
            raise PurseEmpty(told)
        unknown = [exclusion for exclusion in plan.excluded if exclusion.code == PriceUnknown.code]
        if unknown:
            raise PriceUnknown(f"'{unknown[0].model}': {unknown[0].reason}.")
        if self._limits is not None:
            raise ModelUnavailable("The limits of the request leave no model for this.")
        if facts.requested.startswith("auto") or not plan.excluded:
            raise ModelUnavailable(f"No model here can answer a {facts.capability.value} request.")
        return facts
