"""A dispatcher with real parts around a backend that follows a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from backends.base import Upstream
from backends.notices import note, tell
from backends.queueing import Need
from backends.wire.chat import ChatRequest, Message
from backends.workers.pool import PoolSnapshot, WorkerView
from catalog.errors import (
    RoundhouseError,
)
from catalog.model import Capability, LibrarySource, Model, Price, UpstreamSource
from catalog.types import Json
from routing.accounts.spend import Spend
from routing.calling.dispatcher import Dispatcher
from routing.calling.job import Job
from routing.calling.operations import CHAT
from routing.calling.traces import Traces
from routing.calling.watching.judgement import MakeJudge
from routing.choosing.pins import Pins
from routing.facts import Facts
from routing.outcomes import Outcome, Result
from routing.plan import Candidate, Exclusion, Plan, Strategy
from routing.upstreams.breaker import Breakers
from tests.routing.clocks import ManualClock

Script = Sequence[Json | RoundhouseError | None]
REQUEST = ChatRequest(model="auto", messages=[Message(role="user", content="hello")])
FACTS = Facts(capability=Capability.CHAT, prompt_tokens=10)
ROLE: Json = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
USAGE: Json = {"choices": [], "usage": {"prompt_tokens": 100_000, "completion_tokens": 950_000}}


def text(content: str) -> Json:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]}


def end(reason: str = "stop") -> Json:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


GOOD: Script = (ROLE, text("fine"), end(), USAGE)


@dataclass
class ScriptedBackend:
    """Answers by the upstream's model name; ``None`` in a script waits for ever. Counts what is open."""

    scripts: dict[str, Script]
    calls: list[Upstream] = field(default_factory=list)
    open: int = 0
    requests: list[ChatRequest] = field(default_factory=list)
    drops: tuple[str, ...] = ()
    drops_of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The names that single models drop."""
    reports: str = ""
    """The header that names the parameters which the worker dropped."""
    tells: str = ""
    """A sentence for the caller."""
    before: Callable[[], None] = lambda: None
    """Runs when a call begins."""

    def dropped(self, request: ChatRequest, upstream: Upstream) -> tuple[str, ...]:
        return self.drops_of.get(upstream.model, self.drops)

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncIterator[Json]:
        self.calls.append(upstream)
        self.requests.append(request)
        self.open += 1
        self.before()
        note({"x-roundhouse-dropped": self.reports})
        if self.tells:
            tell(self.tells)
        try:
            for step in self.scripts[upstream.model]:
                if step is None:
                    await asyncio.Event().wait()
                elif isinstance(step, RoundhouseError):
                    raise step
                else:
                    yield {**step, "model": "what the upstream calls it"}
        finally:
            step = None  # an error must not be held by a frame of its own traceback
            self.open -= 1


@dataclass
class CountingPool:
    """Workers that are always ready; ``leased`` is how many leases are out."""

    leased: int = 0
    needs: list[Need] = field(default_factory=list)

    @asynccontextmanager
    async def lease(self, model: Model, need: Need) -> AsyncIterator[Upstream]:
        self.leased += 1
        self.needs.append(need)
        try:
            yield Upstream(f"worker/{model.id}", "worker", "http://worker/v1", model.id, uds="/nowhere")
        finally:
            self.leased -= 1

    def snapshot(self) -> PoolSnapshot:
        return PoolSnapshot()

    async def load(
        self,
        model: Model,
        *,
        keep_alive: float | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> WorkerView:
        raise NotImplementedError

    async def unload(self, model_id: str, *, force: bool = False) -> bool:
        raise NotImplementedError

    def keep(self, model_id: str, seconds: float) -> None:
        raise NotImplementedError

    async def log(self, model_id: str, *, lines: int = 200) -> str:
        raise NotImplementedError

    async def drain(self, deadline: float) -> None:
        raise NotImplementedError


@dataclass
class Recorder:
    outcomes: list[Outcome] = field(default_factory=list)

    def record(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def local(name: str) -> Model:
    return Model(
        id=name,
        capabilities=frozenset({Capability.CHAT}),
        source=LibrarySource(module=name),
        engine="x",
        price=Price(input=0, output=0),
    )


def remote(name: str, endpoint: str = "cloud") -> Model:
    return Model(
        id=f"{endpoint}/{name}",
        capabilities=frozenset({Capability.CHAT}),
        source=UpstreamSource(endpoint=endpoint, model=name),
        price=Price(input=1, output=2),
    )


@dataclass
class Stand:
    """A dispatcher with real parts around a scripted backend."""

    dispatcher: Dispatcher
    backend: ScriptedBackend
    pool: CountingPool
    recorder: Recorder
    plans: list[Plan]
    spend: Spend
    traces: Traces
    learning: Recorder
    pins: Pins
    breakers: Breakers
    clock: ManualClock

    def job(self, facts: Facts = FACTS, judge: MakeJudge | None = None) -> Job[Json]:
        return Job(
            facts=facts,
            operation=CHAT,
            request=REQUEST,
            trace="trace-1",
            judge=judge,
        )

    def will_try(self, *models: Model, strategy: Strategy = Strategy.PROFILE) -> None:
        candidates = tuple(Candidate(m, 1.0, 0.5, 1.0, None, m.id, "because") for m in models)
        self.plans[:] = [Plan(candidates, (Exclusion("other", "not_pulled", "is not pulled"),), strategy, "why")]

    async def ask(self, job: Job[Json] | None = None) -> tuple[str, list[Json]]:
        async with self.dispatcher.open(job or self.job()) as answer:
            return answer.model.id, [item async for item in answer]

    @property
    def results(self) -> list[tuple[str, Result]]:
        return [(outcome.model, outcome.result) for outcome in self.recorder.outcomes]
