"""The judge compares answers after they were sent, within its budget, and never of requests that are private."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from catalog.types import Json
from routing.accounts.virtual_keys import KeyLimits, Rate, VirtualKeys
from routing.facts import Complexity, Facts, Task
from routing.settings import JudgeSettings
from server.app import create_app
from server.assembly import open_runtime
from server.probing.comparing import Comparison, verdict_in
from server.probing.sampling import PAYER, Sampler
from server.runtime import Runtime
from server.settings import Settings
from tests.backends.workers.conftest import fake_engines
from tests.fakes import openai_chat
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_chat import Answer
from tests.fakes.server import Call

GOOD, BAD = "Paris is the capital of France.", "I like trains."
ASK: Json = {"model": "auto", "messages": [{"role": "user", "content": "What is the capital of France?"}]}


class Site(FakeOpenAI):
    """A provider of ``one``, ``two`` and ``judge``; the judge prefers ``prefers``, and its prompts are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.models += ["one", "two", "judge"]
        self.says = {"one": BAD, "two": GOOD}
        self.judged: list[str] = []
        self.asked: list[str] = []
        self.efforts: dict[str, str | None] = {}
        self.prefers: str | None = GOOD
        self.gate: asyncio.Event | None = None

    async def chat(self, request: web.Request, call: Call) -> web.StreamResponse:
        self.asked.append(call.body["model"])
        self.efforts[call.body["model"]] = call.body.get("reasoning_effort")
        if call.body["model"] == "judge" and self.gate is not None:
            await self.gate.wait()
        return await super().chat(request, call)

    def answer(self, call: Call) -> Answer:
        model = call.body["model"]
        if model != "judge":
            return openai_chat.limited(self.says[model], call.body)
        prompt = str(call.body["messages"][-1]["content"])
        self.judged.append(prompt)
        if self.prefers is None:
            return openai_chat.limited("A", call.body)
        first = prompt.partition("<answer B")[0]
        return openai_chat.limited("A" if self.prefers in first else "B", call.body)


class Door:
    def __init__(self, client: httpx.AsyncClient, runtime: Runtime) -> None:
        self.client = client
        self.runtime = runtime
        assert isinstance(runtime.samples, Sampler)
        self.sampler = runtime.samples

    async def ask(self, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json={**ASK, **body}, headers=headers)

    async def settled(self) -> None:
        """Wait until no sample waits and none is compared; the loop runs its ready tasks meanwhile."""
        async with asyncio.timeout(10):
            while self.sampler.busy:
                await asyncio.sleep(0.01)

    def quality(self, model: str, task: Task = Task.CHAT) -> float:
        assert self.runtime.insight is not None
        return self.runtime.insight.estimator.expected_quality(model, task, Complexity.SIMPLE)

    async def spent(self) -> float:
        rows = await self.runtime.spend.usage("2000-01-01", "2999-01-01")
        return sum(row.cost for row in rows if row.key == PAYER.id) / 1e9


@pytest.fixture
async def provider() -> AsyncIterator[Site]:
    async with Site() as running:
        yield running


@asynccontextmanager
async def opened(
    tmp_path: Path,
    provider: Site,
    judge: Json | None = None,
    capabilities: Sequence[str] = ("chat",),
    **more: Any,
) -> AsyncIterator[Door]:
    def row(name: str, **fields: Any) -> Json:
        source = {"kind": "upstream", "endpoint": "far", "model": name}
        price = {"input": 1.0, "output": 2.0}
        return {"id": name, "capabilities": list(capabilities), "source": source, "price": price, **fields}

    settings = Settings.model_validate(
        {
            "data_dir": tmp_path / "data",
            "endpoint": [{"id": "far", "base_url": provider.base_url, "private": True}],
            "model": [
                row("one", benchmarks={"overall": 0.7}),
                row("two", benchmarks={"overall": 0.7}),
                row("judge", benchmarks={"overall": 0.1}, price={"input": 1.0, "output": 900.0}),
            ],
            "routing": {"judge": {"model": "judge", "share": 1.0, "daily_dollars": 50.0, **(judge or {})}},
            **more,
        }
    )
    app = create_app(settings, open_runtime=partial(open_runtime, engines=fake_engines()))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as client:
            yield Door(client, app.state.services.runtime)


async def test_the_better_of_two_answers_moves_both_models_apart(tmp_path: Path, provider: Site) -> None:
    async with opened(tmp_path, provider) as door:
        for _ in range(12):
            assert (await door.ask()).status_code == 200
            await door.settled()
        assert door.quality("two") > door.quality("one") + 0.1
        assert await door.spent() > 0


@pytest.mark.parametrize(("named", "effort"), [(None, "high"), ("low", "low")])
async def test_the_runner_up_reasons_as_much_as_it_would_have_as_the_first_choice(
    tmp_path: Path, provider: Site, named: str | None, effort: str
) -> None:
    hard = {
        "role": "user",
        "content": "Prove rigorously that the sum of the reciprocals of the primes diverges, then give a second "
        "independent proof, compare both, and discuss what fails for twin primes.",
    }
    more: Json = {} if named is None else {"reasoning_effort": named}
    async with opened(tmp_path, provider, capabilities=["chat", "reasoning"]) as door:
        await door.ask(messages=[hard], **more)
        await door.settled()
    assert provider.judged
    assert {provider.efforts["one"], provider.efforts["two"]} == {effort}


async def test_the_judge_sees_both_orders_and_no_name_of_a_model(tmp_path: Path, provider: Site) -> None:
    async with opened(tmp_path, provider) as door:
        await door.ask()
        await door.settled()
    assert len(provider.judged) == 2
    first, second = provider.judged
    assert first.index(GOOD) < first.index(BAD) or second.index(GOOD) < second.index(BAD)
    assert (first.index(GOOD) < first.index(BAD)) != (second.index(GOOD) < second.index(BAD))
    assert "What is the capital of France?" in first
    assert not any(f"{name}" in first.split() for name in ("one", "two"))


async def test_a_verdict_that_turns_with_the_order_moves_nothing_apart(tmp_path: Path, provider: Site) -> None:
    provider.prefers = None
    async with opened(tmp_path, provider) as door:
        for _ in range(12):
            await door.ask()
            await door.settled()
        assert door.quality("two") == pytest.approx(door.quality("one"), abs=0.02)


async def test_an_answer_is_not_delayed_and_a_failing_judge_fails_no_request(
    tmp_path: Path, provider: Site
) -> None:
    provider.gate = asyncio.Event()
    async with opened(tmp_path, provider) as door:
        for _ in range(30):  # more than may wait
            assert (await door.ask()).status_code == 200
        provider.models.remove("judge")
        provider.gate.set()
        await door.settled()
        assert (await door.ask()).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"routing": {"local_only": True}},
        {"model": "auto:local"},
        {"store": False},
        {"model": "one"},
        {"routing": {"exclude": ["judge"]}},
        {"routing": {"tags": ["mine"]}},
        {"max_tokens": 2},
        {"n": 2},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
    ],
)
async def test_what_must_not_go_further_or_is_no_whole_text_is_not_compared(
    tmp_path: Path, provider: Site, body: Json
) -> None:
    async with opened(tmp_path, provider) as door:
        await door.ask(**body)
        await door.settled()
    assert "judge" not in provider.asked
    assert len(provider.asked) <= 1


async def test_nothing_is_compared_where_nothing_may_be_stored(tmp_path: Path, provider: Site) -> None:
    async with opened(tmp_path, provider, storage={"store": "never"}) as door:
        assert (await door.ask()).status_code == 200
        await door.settled()
    assert len(provider.asked) == 1


@pytest.mark.parametrize("judge", [{"model": None}, {"share": 0.0}, {"model": "gpt-5.4-mini"}])
async def test_without_a_judge_or_a_share_nothing_is_asked_again(
    tmp_path: Path, provider: Site, judge: Json
) -> None:
    async with opened(tmp_path, provider, judge) as door:
        assert (await door.ask()).status_code == 200
        await door.settled()
    assert len(provider.asked) == 1


async def test_the_dollars_of_a_day_bound_the_comparisons(tmp_path: Path, provider: Site) -> None:
    async with opened(tmp_path, provider, {"daily_dollars": 2.0}) as door:  # a verdict may cost 0.92
        for _ in range(6):
            assert (await door.ask()).status_code == 200
            await door.settled()
        assert 0 < await door.spent() <= 2.0


@pytest.mark.parametrize(
    ("judge", "more"),
    [({"daily_dollars": 1.5}, {}), ({}, {"spend": {"caps": {"day": 1.5}}})],
    ids=["daily_dollars", "a cap"],
)
async def test_no_runner_up_is_asked_where_the_judge_cannot_be_paid_in_both_orders(
    tmp_path: Path, provider: Site, judge: Json, more: Json, logs: io.StringIO
) -> None:
    async with opened(tmp_path, provider, judge, **more) as door:  # a verdict may cost 0.92
        assert (await door.ask()).status_code == 200
        await door.settled()
    assert len(provider.asked) == 1
    told = [json.loads(line) for line in logs.getvalue().splitlines()]
    assert [line["level"] for line in told if "not compared" in line["event"]] == ["warning"]


def test_a_judge_is_one_model() -> None:
    with pytest.raises(ValueError, match="name one chat model"):
        JudgeSettings(model="auto:best")


async def test_a_judge_that_cannot_be_asked_is_told_at_the_start(
    tmp_path: Path, provider: Site, logs: io.StringIO
) -> None:
    async with opened(tmp_path, provider, {"model": "gpt-5.4-mini"}) as door:
        await door.ask()
    told = [json.loads(line) for line in logs.getvalue().splitlines()]
    (warning,) = [line for line in told if "routing.judge.model" in line["event"]]
    assert warning["level"] == "warning"
    assert "key" in warning["reason"]


async def test_the_model_that_a_key_may_not_use_does_not_judge_its_answers(tmp_path: Path, provider: Site) -> None:
    async with opened(tmp_path, provider, admin_keys=["chief"]) as door:
        assert door.runtime.keys is not None
        made = await door.runtime.keys.create("bound", models=("one", "two"))
        key = {"authorization": f"Bearer {made.secret}"}
        assert (await door.ask(headers=key)).status_code == 200
        await door.settled()
        assert "judge" not in provider.asked


async def test_the_limits_of_a_key_see_an_answer_that_is_watched_for_the_judge(
    tmp_path: Path, provider: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    see = VirtualKeys.see

    def spy(keys: VirtualKeys, grant: Any, item: Any) -> None:
        seen.append(item)
        see(keys, grant, item)

    monkeypatch.setattr(VirtualKeys, "see", spy)
    async with opened(tmp_path, provider, admin_keys=["chief"]) as door:
        assert door.runtime.keys is not None
        limits = KeyLimits(tokens=Rate(day=1_000_000))
        made = await door.runtime.keys.create("counted", limits=limits)
        assert (await door.ask(headers={"authorization": f"Bearer {made.secret}"})).status_code == 200
    assert any(item.get("choices") for item in seen)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("A", 1.0),
        ("The second is better.\n\nB", 0.0),
        ("**TIE**", 0.5),
        ("Answer A is longer.\nVerdict: B", 0.0),
        ("A or B", None),
        ("I cannot say", None),
        ("", None),
    ],
)
def test_the_last_line_with_a_verdict_counts(text: str, verdict: float | None) -> None:
    assert verdict_in(text) == verdict


def test_both_orders_share_one_result() -> None:
    assert Comparison(1.0, 1.0).share == 1.0
    assert not Comparison(1.0, 0.0).agrees
    assert Comparison(1.0, 0.0).share == 0.5


def test_a_comparison_keeps_the_sum_of_both_qualities(tmp_path: Path) -> None:
    from catalog.model import Capability
    from routing.beliefs.learning import Learner
    from tests.routing.beliefs.test_learning import taught

    learner = Learner(taught())
    scores = learner.report_comparison(Facts(Capability.CHAT), "model", "other", 1.0, 0.5)
    assert scores[0] - scores[1] == pytest.approx(1.0, abs=0.25)
