"""Reports on speech, transcription, rerank, images and embeddings move the choice of that kind alone."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest

from catalog.types import Json
from routing.facts import Complexity, Task
from server.app import create_app
from server.assembly import open_runtime
from server.settings import Settings
from tests.backends.workers.conftest import fake_engines
from tests.fakes.openai import FakeOpenAI

Ask = Callable[[httpx.AsyncClient, str], Awaitable[httpx.Response]]
CAPABILITIES = ["speak", "transcribe", "rerank", "image", "embed"]
REPORTS = 25


def post(path: str, **body: object) -> Ask:
    return lambda client, model: client.post(path, json={"model": model, **body})


def transcribe(client: httpx.AsyncClient, model: str) -> Awaitable[httpx.Response]:
    sound = {"file": ("sound.wav", io.BytesIO(b"RIFF" + bytes(400)), "audio/wav")}
    return client.post("/v1/audio/transcriptions", data={"model": model}, files=sound)


KINDS: dict[Task, Ask] = {
    Task.SPEECH: post("/v1/audio/speech", input="Hello there.", voice="alloy"),
    Task.TRANSCRIBE: transcribe,
    Task.RERANK: post("/v1/rerank", query="bread", documents=["Bread is baked.", "The moon is far."]),
    Task.IMAGE: post("/v1/images/generations", prompt="A lighthouse."),
    Task.EMBED: post("/v1/embeddings", input="Hello there."),
}


class Pair:
    """A gateway over the models ``a`` and ``b``, which can do all kinds of work and cost the same."""

    def __init__(self, client: httpx.AsyncClient, quality: Callable[[str, Task], float]) -> None:
        self.client = client
        self.quality = quality

    async def answered_by(self, ask: Ask, model: str = "auto") -> tuple[str, str]:
        answer = await ask(self.client, model)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-roundhouse-model"], answer.headers["x-roundhouse-trace"]

    async def teach(self, ask: Ask, better: str) -> None:
        for _ in range(REPORTS):
            for name in ("a", "b"):
                model, trace = await self.answered_by(ask, name)
                assert model == name
                told = await self.client.post("/v1/outcomes", json={"trace": trace, "accepted": name == better})
                assert told.status_code == 200, told.text


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    def row(name: str) -> Json:
        source = {"kind": "upstream", "endpoint": name, "model": "omni"}
        price = {"input": 1.0, "output": 1.0, "image": 0.01, "minute": 0.01, "character": 1.0, "search": 1.0}
        return {"id": name, "capabilities": CAPABILITIES, "source": source, "price": price}

    async with AsyncExitStack() as held:
        endpoints = []
        for name in ("a", "b"):
            fake = await held.enter_async_context(FakeOpenAI())
            fake.models.append("omni")
            endpoints.append({"id": name, "base_url": fake.base_url})
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path / "data",
                "endpoint": endpoints,
                "model": [row("a"), row("b")],
                # Both are equally fast: differences of a busy machine must not decide.
                "routing": {"unnoticed": 60.0},
            }
        )
        app = create_app(settings, open_runtime=partial(open_runtime, engines=fake_engines()))
        await held.enter_async_context(app.router.lifespan_context(app))
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost", timeout=30)
        await held.enter_async_context(client)
        insight = app.state.services.runtime.insight

        def quality(model: str, task: Task) -> float:
            return float(insight.estimator.expected_quality(model, task, Complexity.SIMPLE))

        yield Pair(client, quality)


@pytest.mark.parametrize("better", ["a", "b"])
@pytest.mark.parametrize("task", KINDS)
async def test_reports_of_one_kind_move_its_choice_and_no_other_kinds_quality(
    pair: Pair, task: Task, better: str
) -> None:
    other = next(each for each in KINDS if each is not task)
    await pair.teach(KINDS[task], better)
    worse = "b" if better == "a" else "a"
    assert pair.quality(better, task) > pair.quality(worse, task) + 0.3
    assert pair.quality("a", other) == pytest.approx(pair.quality("b", other), abs=0.01)
    times = 1 if task is Task.EMBED else 20  # the first call of embeddings pins its model
    chosen = Counter([(await pair.answered_by(KINDS[task]))[0] for _ in range(times)])
    assert chosen[better] >= 0.85 * times, chosen
