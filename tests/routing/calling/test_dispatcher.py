"""Dispatch: one attempt at a time, everything given back, one outcome each, and never a second answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from backends.base import Timeouts, Upstream
from backends.http import HttpClient
from backends.openai.backend import OpenAIBackend
from backends.queueing import Need
from backends.wire.chat import ChatRequest, Message
from backends.workers.pool import PoolSnapshot, WorkerView
from catalog.errors import (
    CapabilityMismatch,
    ContextLengthExceeded,
    InvalidRequest,
    ModelUnavailable,
    NoCandidate,
    QueueFull,
    RoundhouseError,
    StreamBroken,
    UnsupportedParameter,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejectedKey,
    UpstreamUnreachable,
    WorkerFailed,
)
from catalog.model import Capability, Endpoint, LibrarySource, Model, Price, UpstreamSource
from catalog.types import Json
from routing.accounts.spend import Spend, SpendSettings
from routing.calling.dispatcher import Dispatcher
from routing.calling.job import Job
from routing.calling.judgement import MakeJudge
from routing.calling.lease import Leases
from routing.calling.operations import CHAT
from routing.calling.retry_budget import RetryBudget, RetrySettings
from routing.calling.traces import Traces, TraceSettings
from routing.facts import Facts, Intent
from routing.outcomes import Outcome, Result
from routing.plan import Candidate, Exclusion, Plan, Strategy
from routing.state.sqlite import SqliteState
from routing.upstreams.breaker import Breakers, BreakerSettings
from routing.upstreams.concurrency import ConcurrencyLimits
from routing.upstreams.provider_keys import KeyPools, SecretResolver
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.garbage import left_in_cycles
from tests.routing.clocks import ManualClock

Script = Sequence[Json | RoundhouseError | None]
REQUEST = ChatRequest(model="auto", messages=[Message(role="user", content="hello")])
FACTS = Facts(capability=Capability.CHAT, prompt_tokens=10)
ROLE: Json = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
USAGE: Json = {"choices": [], "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 500_000}}


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
    drops: tuple[str, ...] = ()

    def dropped(self, request: ChatRequest, upstream: Upstream) -> tuple[str, ...]:
        return self.drops

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncIterator[Json]:
        self.calls.append(upstream)
        self.open += 1
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

    async def load(self, model: Model, *, keep_alive: float | None = None) -> WorkerView:
        raise NotImplementedError

    async def unload(self, model_id: str) -> bool:
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


@pytest.fixture
async def stand(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stand]:
    """Parametrise it indirectly with :class:`TraceSettings`."""
    clock = ManualClock()
    state = SqliteState(tmp_path / "state.sqlite3")
    await state.start()
    endpoints = {
        "cloud": Endpoint(id="cloud", base_url="http://cloud/v1", key_env=("CLOUD_KEYS",)),
        "lan": Endpoint(id="lan", base_url="http://lan/v1"),
        "small": Endpoint(id="small", base_url="http://small/v1", max_concurrency=1),
    }
    keys = KeyPools(endpoints.values(), SecretResolver({"CLOUD_KEYS": "one,two"}), clock)
    breakers = Breakers(BreakerSettings(), clock)
    spend = Spend(state, SpendSettings(), clock)
    await spend.start()
    traces = Traces(getattr(request, "param", TraceSettings()), clock)
    pool, backend, recorder = CountingPool(), ScriptedBackend({}), Recorder()
    plans: list[Plan] = []
    dispatcher = Dispatcher(
        planner=lambda facts: plans[0],
        leases=Leases(
            pool=pool,
            endpoint=lambda name: endpoints[name],
            keys=keys,
            spend=spend,
            concurrency=ConcurrencyLimits(clock, max_queue=2),
            timeouts=Timeouts(),
        ),
        backends={"worker": backend, "openai": backend},
        breakers=breakers,
        spend=spend,
        retries=RetryBudget(RetrySettings(), clock),
        traces=traces,
        sinks=(breakers, keys, traces, recorder),
        clock=clock,
        batched_sinks=(learning := Recorder(),),
    )
    yield Stand(dispatcher, backend, pool, recorder, plans, spend, traces, learning)
    await dispatcher.settle()
    await state.close()
    assert pool.leased == 0
    assert backend.open == 0


async def test_the_first_candidate_answers_and_is_reported(stand: Stand) -> None:
    stand.backend.scripts = {"a": GOOD}
    stand.will_try(local("a"), local("b"))
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.headers() == {
            "x-roundhouse-model": "a",
            "x-roundhouse-trace": "trace-1",
            "x-roundhouse-reason": "because",
            "x-roundhouse-attempts": "1",
        }
        items = [item async for item in answer]
    assert [item["model"] for item in items] == ["a"] * 4
    outcome = stand.recorder.outcomes[0]
    assert (outcome.result, outcome.finish_reason, outcome.attempt) == (Result.SUCCESS, "stop", 1)
    assert (outcome.usage.input, outcome.usage.output, outcome.cost) == (1_000_000, 500_000, 0)


async def test_a_remote_answer_is_paid_at_its_price_and_carries_a_key(stand: Stand) -> None:
    stand.backend.scripts = {"big": GOOD}
    stand.will_try(remote("big"))
    await stand.ask()
    assert stand.recorder.outcomes[0].cost == pytest.approx(2.0)
    assert stand.backend.calls[0].api_key == "one"
    assert stand.recorder.outcomes[0].provider_key == 0


async def test_an_endpoint_that_takes_one_call_at_a_time_is_asked_one_at_a_time(stand: Stand) -> None:
    stand.backend.scripts = {"m": GOOD}
    stand.will_try(remote("m", "small"))
    async with stand.dispatcher.open(stand.job()) as first:
        others = [asyncio.create_task(stand.ask()) for _ in range(4)]
        await asyncio.sleep(0.05)
        assert len(stand.backend.calls) == 1
        assert isinstance(others[2].exception(), QueueFull), "two may wait"
        assert isinstance(others[3].exception(), QueueFull)
        others[0].cancel()
        assert [item async for item in first]
    assert (await others[1])[0] == "small/m"
    assert stand.results[:2] == [("small/m", Result.REJECTED)] * 2
    assert sorted(stand.results[2:]) == [("small/m", Result.CANCELLED)] + [("small/m", Result.SUCCESS)] * 2


async def test_where_turns_are_all_taken_another_candidate_answers(stand: Stand) -> None:
    stand.backend.scripts = {"m": GOOD, "b": GOOD}
    stand.will_try(remote("m", "small"))
    async with stand.dispatcher.open(stand.job()) as first:
        waiting = [asyncio.create_task(stand.ask()) for _ in range(2)]
        await asyncio.sleep(0)
        stand.will_try(remote("m", "small"), local("b"))
        assert (await stand.ask())[0] == "b"
        assert [item async for item in first]
    assert [name for name, _ in await asyncio.gather(*waiting)] == ["small/m"] * 2


async def test_a_call_that_fails_gives_its_turn_back(stand: Stand) -> None:
    stand.backend.scripts = {"m": (UpstreamError("no"),)}
    stand.will_try(remote("m", "small"))
    for _ in range(3):
        with pytest.raises(UpstreamError):
            await stand.ask()
    stand.backend.scripts = {"m": GOOD}
    assert (await stand.ask())[0] == "small/m"


async def test_the_reason_tells_what_failed_before(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, WorkerFailed("gone")), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.headers()["x-roundhouse-reason"] == "b after a: worker_failed; the first choice was because"
        assert [item async for item in answer]


async def test_failure_before_the_first_token_falls_back_unseen(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, WorkerFailed("gone")), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.model.id == "b"
        assert answer.attempts == 2
        items = [item async for item in answer]
    assert items[1]["choices"][0]["delta"]["content"] == "fine"
    assert len(items) == len(GOOD)
    assert stand.results == [("a", Result.FAILED), ("b", Result.SUCCESS)]
    assert [outcome.attempt for outcome in stand.recorder.outcomes] == [1, 2]


async def test_a_worker_that_just_died_is_leased_again_once(stand: Stand) -> None:
    stand.backend.scripts = {"a": (UpstreamUnreachable("refused"),)}
    stand.will_try(local("a"))
    with pytest.raises(UpstreamUnreachable):
        await stand.ask()
    assert stand.results == [("a", Result.FAILED)] * 2


@pytest.mark.parametrize("others", [True, False], ids=["another candidate", "none"])
async def test_a_request_that_the_upstream_may_have_read_is_sent_once_and_is_one_failed_outcome(
    stand: Stand, others: bool
) -> None:
    """The upstream reads the request and closes its kept-alive connection; its second key is not tried."""
    async with FakeOpenAI() as first, FakeOpenAI() as second, HttpClient() as http:
        addresses = {"cloud": first.base_url, "lan": second.base_url}
        backend = OpenAIBackend(http)
        job = replace(
            stand.job(),
            operation=replace(
                CHAT,
                call=lambda _, upstream, body: backend.chat(
                    replace(upstream, base_url=addresses[upstream.endpoint], model="fake-chat"), body
                ),
            ),
        )
        stand.will_try(*[remote("a"), remote("b", "lan")][: 1 + others])
        first.script(Fault(), Fault(die_after=-1))
        assert (await stand.ask(job))[0] == "cloud/a"
        if others:
            assert (await stand.ask(job))[0] == "lan/b"
        else:
            with pytest.raises(UpstreamUnreachable, match="closed the connection before it answered") as raised:
                await stand.ask(job)
            assert (raised.value.status, raised.value.code) == (502, "upstream_unreachable")
        assert len(first.calls) == 2
        assert len({call.peer for call in first.calls}) == 1, "one connection, kept alive"
        assert len(second.calls) == others
    expected = [("cloud/a", Result.SUCCESS), ("cloud/a", Result.FAILED), ("lan/b", Result.SUCCESS)]
    assert stand.results == expected[: 2 + others]
    assert stand.recorder.outcomes[1].error == "upstream_unreachable"


async def test_failure_after_the_first_token_never_gets_a_second_answer(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, text("half"), StreamBroken("cut")), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    got: list[Json] = []
    with pytest.raises(StreamBroken):
        async with stand.dispatcher.open(stand.job()) as answer:
            async for item in answer:
                got.append(item)  # noqa: PERF401
    assert len(got) == 2
    assert stand.results == [("a", Result.FAILED)]
    assert stand.recorder.outcomes[0].error == "stream_broken"


async def test_when_everyone_fails_the_last_error_is_raised_and_each_attempt_has_an_outcome(stand: Stand) -> None:
    stand.backend.scripts = {"a": (StreamBroken("a"),), "b": (WorkerFailed("b"),)}
    stand.will_try(local("a"), local("b"))
    with pytest.raises(WorkerFailed):
        await stand.ask()
    assert stand.results == [("a", Result.FAILED), ("b", Result.FAILED)]
    trace = stand.traces.get("trace-1")
    assert trace is not None
    assert trace["status"] == "failed"
    assert len(trace["attempts"]) == 2


async def test_the_callers_mistake_is_not_retried(stand: Stand) -> None:
    stand.backend.scripts = {"a": (InvalidRequest("no"),), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    with pytest.raises(InvalidRequest):
        await stand.ask()
    assert stand.results == [("a", Result.REJECTED)]


@pytest.mark.parametrize(
    "error",
    [ContextLengthExceeded(model="a", limit=1, requested=2), CapabilityMismatch("cannot")],
    ids=["long", "cannot"],
)
async def test_what_one_model_cannot_do_another_is_asked_for(stand: Stand, error: RoundhouseError) -> None:
    stand.backend.scripts = {"a": (error,), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    model, _ = await stand.ask()
    assert model == "b"


async def test_a_refusal_is_an_answer(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, text("I cannot help with that"), end("content_filter")), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    model, _ = await stand.ask()
    assert model == "a"
    assert stand.results == [("a", Result.REFUSAL)]


@pytest.mark.parametrize("error", [UpstreamRateLimited("slow"), UpstreamRejectedKey("bad")], ids=["429", "401"])
async def test_another_key_is_tried_before_another_model(stand: Stand, error: RoundhouseError) -> None:
    stand.backend.scripts = {"big": (error,), "b": GOOD}
    stand.will_try(remote("big"), local("b"))
    model, _ = await stand.ask()
    assert model == "b"
    assert [call.api_key for call in stand.backend.calls] == ["one", "two", None]


async def test_a_caller_who_leaves_while_waiting_leaves_nothing_behind(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, None)}
    stand.will_try(local("a"), local("b"))
    task = asyncio.create_task(stand.ask())
    while not stand.backend.open:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stand.dispatcher.settle()
    assert stand.results == [("a", Result.CANCELLED)]
    assert stand.pool.leased == 0


async def test_a_caller_who_leaves_mid_stream_closes_the_upstream(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, text("x"), None)}
    stand.will_try(local("a"))
    async with stand.dispatcher.open(stand.job()) as answer:
        async for item in answer:
            if item["choices"][0]["delta"].get("content"):
                break
    await stand.dispatcher.settle()
    assert stand.backend.open == 0
    assert stand.results == [("a", Result.CANCELLED)]


async def test_cancelling_again_and_again_still_gives_everything_back(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, text("x"), None)}
    stand.will_try(local("a"))

    async def read() -> None:
        async with stand.dispatcher.open(stand.job()) as answer:
            async for _ in answer:
                pass

    task = asyncio.create_task(read())
    while not stand.backend.open:
        await asyncio.sleep(0)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    await stand.dispatcher.settle()
    assert stand.results == [("a", Result.CANCELLED)]
    assert stand.pool.leased == 0


async def test_an_answer_that_ends_before_it_began_is_broken(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE,), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    model, _ = await stand.ask()
    assert model == "b"


async def test_dropped_parameters_are_told_and_strict_refuses_them(stand: Stand) -> None:
    stand.backend.scripts = {"a": GOOD}
    stand.backend.drops = ("top_k",)
    stand.will_try(local("a"))
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.headers()["x-roundhouse-dropped"] == "top_k"
    strict = Facts(capability=Capability.CHAT, intent=Intent(strict=True))
    with pytest.raises(UnsupportedParameter, match="top_k"):
        await stand.ask(stand.job(strict))


class WantsFine:
    """A judge to whom only ``fine`` is valid."""

    def __init__(self) -> None:
        self.said = ""

    def see(self, item: Any) -> None:
        self.said += "".join(c["delta"].get("content") or "" for c in item["choices"])

    def verdict(self) -> bool | None:
        return self.said == "fine"


async def test_an_invalid_answer_escalates_when_the_caller_may_wait(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, text("not json"), end()), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    patient = replace(FACTS, intent=Intent(escalate=True))
    model, items = await stand.ask(stand.job(patient, judge=WantsFine))
    assert model == "b"
    assert len(items) == len(GOOD)
    assert [outcome.valid for outcome in stand.recorder.outcomes] == [False, True]
    assert [outcome.result for outcome in stand.recorder.outcomes] == [Result.SUCCESS, Result.SUCCESS]


@pytest.mark.parametrize("escalate", [False, True])
async def test_an_attempt_asks_its_judge_for_one_verdict(stand: Stand, escalate: bool) -> None:
    verdicts: list[str] = []

    class Counting(WantsFine):
        def verdict(self) -> bool | None:
            verdicts.append(self.said)
            return super().verdict()

    stand.backend.scripts = {"a": (ROLE, text("not json"), end()), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    await stand.ask(stand.job(replace(FACTS, intent=Intent(escalate=escalate)), judge=Counting))
    assert verdicts == (["not json", "fine"] if escalate else ["not json"])


@pytest.mark.parametrize(
    "stand", [TraceSettings(store_prompts=False), TraceSettings(store_prompts=True)], indirect=True
)
async def test_a_trace_has_the_request_as_sent_only_where_the_setting_keeps_prompts(
    stand: Stand, request: pytest.FixtureRequest
) -> None:
    stand.backend.scripts = {"a": GOOD}
    stand.will_try(local("a"))
    await stand.ask()
    trace = stand.traces.get("trace-1")
    assert trace is not None
    kept = request.node.callspec.params["stand"].store_prompts
    assert trace.get("prompt") == (REQUEST.to_wire() if kept else None)


async def test_an_invalid_answer_reaches_who_may_not_wait_at_once_and_its_outcome_says_so(stand: Stand) -> None:
    stand.backend.scripts = {"a": (ROLE, text("not json"), end()), "b": GOOD}
    stand.will_try(local("a"), local("b"))
    async with stand.dispatcher.open(stand.job(judge=WantsFine)) as answer:
        assert not stand.recorder.outcomes
        assert answer.model.id == "a"
        async for _ in answer:
            pass
    assert [outcome.valid for outcome in stand.recorder.outcomes] == [False]


async def test_the_last_candidates_answer_is_given_even_if_it_is_invalid(stand: Stand) -> None:
    stand.backend.scripts = {name: (ROLE, text("not json"), end()) for name in "ab"}
    stand.will_try(local("a"), local("b"))
    patient = replace(FACTS, intent=Intent(escalate=True))
    model, _ = await stand.ask(stand.job(patient, judge=WantsFine))
    assert model == "b"
    assert [outcome.valid for outcome in stand.recorder.outcomes] == [False, False]


async def test_no_candidate_says_why(stand: Stand) -> None:
    stand.will_try()
    with pytest.raises(NoCandidate, match="is not pulled"):
        await stand.ask()
    stand.will_try(strategy=Strategy.EXPLICIT)
    with pytest.raises(ModelUnavailable, match="is not pulled"):
        await stand.ask()


async def test_everything_down_costs_few_extra_calls(stand: Stand) -> None:
    """The retry budget: 1,000 requests, each with a fallback, all failing."""
    stand.backend.scripts = {"a": (UpstreamUnreachable("a"),), "b": (UpstreamUnreachable("b"),)}
    stand.will_try(remote("a", "lan"), remote("b", "lan"))
    for _ in range(1000):
        with pytest.raises(RoundhouseError):
            await stand.ask()
    assert len(stand.backend.calls) <= 1200


async def test_who_learns_is_told_of_an_answer_after_it_left_and_of_a_failure_at_once(stand: Stand) -> None:
    stand.backend.scripts = {"a": GOOD, "b": (WorkerFailed("gone"),)}
    stand.will_try(local("a"))
    await stand.ask()
    assert len(stand.recorder.outcomes) == 1
    assert stand.learning.outcomes == []
    stand.will_try(local("b"), local("a"))
    async with stand.dispatcher.open(stand.job()) as answer:
        assert answer.model.id == "a"
        assert stand.learning.outcomes == stand.recorder.outcomes
        assert [outcome.result for outcome in stand.learning.outcomes] == [Result.SUCCESS, Result.FAILED]


@pytest.mark.parametrize("ask", ["settle", "explain"])
async def test_who_explains_or_settles_has_everybody_told_first(stand: Stand, ask: str) -> None:
    stand.backend.scripts = {"a": GOOD}
    stand.will_try(local("a"))
    await stand.ask()
    if ask == "settle":
        await stand.dispatcher.settle()
    else:
        stand.dispatcher.explain(FACTS)
    assert stand.learning.outcomes == stand.recorder.outcomes
    await stand.dispatcher.settle()
    assert len(stand.learning.outcomes) == 1


async def test_a_whole_remote_answer_is_closed_without_a_task_of_its_own(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned: list[object] = []

    class Noting(set[object]):
        def add(self, task: object) -> None:
            spawned.append(task)
            super().add(task)

    monkeypatch.setattr(stand.dispatcher, "_closing", Noting())
    stand.backend.scripts = {"big": GOOD}
    stand.will_try(remote("big", "lan"))
    _, items = await stand.ask()
    assert len(items) == len(GOOD)
    assert spawned == []
    assert stand.results == [("lan/big", Result.SUCCESS)]
    assert stand.backend.open == 0


async def test_a_caller_cancelled_as_the_last_item_came_still_leaves_one_outcome(stand: Stand) -> None:
    stand.backend.scripts = {"big": GOOD}
    stand.will_try(remote("big", "lan"))

    async def read() -> None:
        async with stand.dispatcher.open(stand.job()) as answer:
            async for _ in answer:
                pass
            task.cancel()

    task = asyncio.create_task(read())
    await asyncio.wait((task,))
    await stand.dispatcher.settle()
    assert stand.results == [("lan/big", Result.SUCCESS)]
    assert stand.traces.get("trace-1") is not None


async def test_a_row_that_changed_is_called_at_its_new_address(stand: Stand) -> None:
    stand.backend.scripts = {"big": GOOD, "bigger": GOOD}
    for name in ("big", "big", "bigger"):
        source = UpstreamSource(endpoint="lan", model=name)
        stand.will_try(remote("big", "lan").model_copy(update={"source": source}))
        await stand.ask()
    assert [call.model for call in stand.backend.calls] == ["big", "big", "bigger"]


async def test_each_key_has_an_address_of_its_own(stand: Stand) -> None:
    stand.backend.scripts = {"big": GOOD}
    stand.will_try(remote("big"))
    for _ in range(4):
        await stand.ask()
    assert [call.api_key for call in stand.backend.calls] == ["one", "two", "one", "two"]


async def test_neither_an_answer_nor_a_refusal_leaves_anything_to_the_garbage_collector(stand: Stand) -> None:
    async def fails() -> None:
        with pytest.raises(WorkerFailed):
            await stand.ask()

    with left_in_cycles() as left:
        stand.will_try(local("a"), local("b"))
        stand.backend.scripts = {"a": GOOD}
        await stand.ask()
        stand.backend.scripts = {"a": (ROLE, WorkerFailed("gone")), "b": (WorkerFailed("gone as well"),)}
        await fails()
        stand.backend.scripts = {}
    assert left == [], left
