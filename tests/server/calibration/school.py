"""A running gateway over fakes of models that know, or do not know, the answers to a calibration's questions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx
from aiohttp import web

from catalog.types import Json
from routing.clock import SystemClock
from server.app import create_app
from server.assembly import open_runtime
from server.background import works
from server.calibration.subjects import SUBJECTS
from server.calibration.subjects.reasoning import deduction, problem
from server.runtime import Runtime
from server.settings import Settings
from server.storage.runner import Runner
from tests.backends.workers.conftest import fake_engines
from tests.fakes import openai_chat
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_chat import Answer
from tests.fakes.server import Call

PLACE = "/v1/admin/calibrations"
PRICE = {"input": 10.0, "output": 20.0}
REASONING: Json = {"tasks": ["reasoning", "maths"], "questions": 6}


def reasoning_answers(seed: int = 0, questions: int = 100) -> dict[str, str]:
    """The right answers to the questions of reasoning, by the prompt's beginning."""
    known: dict[str, str] = {}
    for subject in SUBJECTS:
        for number in range(questions):
            dice = Random(f"{seed}/{subject.id}/{number}")
            if subject.name == "arithmetic":
                prompt, result = problem(dice)
                known[prompt] = str(result)
            elif subject.name == "logic":
                prompt, word = deduction(dice)
                known[prompt] = word
    return known


class Pupil(FakeOpenAI):
    """Answers the questions whose prompts ``knows`` has, others with ``reply``. ``gate`` holds its answers up."""

    def __init__(self) -> None:
        super().__init__()
        self.reply = "I do not know."
        self.knows: dict[str, str] = {}
        self.gate: asyncio.Event | None = None
        self.fails: int | None = None
        self.asked: list[str] = []

    async def chat(self, request: web.Request, call: Call) -> web.StreamResponse:
        self.asked.append(str(call.body["messages"][-1]["content"]))
        if self.fails is not None:
            return self.refused(call, self.fails, "It does not work.", code="some_error")
        if self.gate is not None and len(self.asked) > 4:
            await self.gate.wait()
        return await super().chat(request, call)

    def answer(self, call: Call) -> Answer:
        prompt = str(call.body["messages"][-1]["content"])
        told = next((right for known, right in self.knows.items() if prompt.startswith(known)), None)
        return openai_chat.limited(self.reply if told is None else f"Answer: {told}", call.body)


class School:
    """The gateway, with the pupils ``bright`` and ``dull`` behind it."""

    def __init__(self, client: httpx.AsyncClient, runtime: Runtime, settings: Settings) -> None:
        self.client = client
        self.runtime = runtime
        self._settings = settings

    async def begin(self, **body: Any) -> Json:
        made = await self.client.post(PLACE, json={**REASONING, **body})
        assert made.status_code == 200, made.text
        told: Json = made.json()
        return told

    async def until_ended(self, begun: Json) -> Json:
        async with asyncio.timeout(30):
            while True:
                told: Json = (await self.client.get(f"{PLACE}/{begun['id']}")).json()
                if told["status"] not in ("in_progress", "cancelling"):
                    return told
                await asyncio.sleep(0.01)

    async def calibrated(self, **body: Any) -> Json:
        return await self.until_ended(await self.begin(**body))

    async def die(self) -> None:
        assert self.runtime.runner is not None
        await self.runtime.runner.stop()

    def revive(self) -> None:
        self.runtime.runner = Runner(
            self.runtime.storage.records, SystemClock(), works(self.runtime, self._settings)
        )
        self.runtime.runner.start()


@asynccontextmanager
async def opened(
    tmp_path: Path,
    bright: Pupil,
    dull: Pupil,
    *,
    price: Json | None = PRICE,
    name: str | None = None,
    **overrides: Any,
) -> AsyncIterator[School]:
    """A gateway whose only usable models are the two pupils, which are replicas of ``name`` if there is one."""

    def row(id_: str) -> Json:
        source = {"kind": "upstream", "endpoint": id_, "model": "fake-chat"}
        made = {"id": id_, "capabilities": ["chat"], "source": source, "price": price or {}}
        return made if name is None else {**made, "name": name}

    settings = Settings.model_validate(
        {
            "data_dir": tmp_path / "data",
            "endpoint": [
                {"id": "bright", "base_url": bright.base_url},
                {"id": "dull", "base_url": dull.base_url},
            ],
            "model": [row("bright"), row("dull")],
            "persistence": {"interval": 0.05},
            **overrides,
        }
    )
    app = create_app(settings, open_runtime=partial(open_runtime, engines=fake_engines()))
    async with AsyncExitStack() as held:
        await held.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app=app)
        client = await held.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)
        )
        yield School(client, app.state.services.runtime, settings)
