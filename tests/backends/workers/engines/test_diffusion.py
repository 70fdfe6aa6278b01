"""The engine diffusion without torch and diffusers, with a fake pipeline that counts its steps."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from backends.wire.images import ImageRequest
from backends.workers.engines.diffusion import DiffusionEngine, DiffusionOptions, pipeline_arguments
from backends.workers.program.app import build_app
from backends.workers.spec import WorkerSpec
from catalog.errors import EngineMissing, InvalidRequest
from tests.conformance.capability_checks import events

ALL = frozenset({"prompt", "negative_prompt", "guidance_scale"})


class Picture:
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def save(self, file: Any, *, format: str, quality: int | None = None) -> None:  # noqa: A002 - Pillow's name
        file.write(f"{format} {self.seed} {quality}".encode())


@dataclass
class Drawn:
    images: list[Picture]


@dataclass
class Pipeline:
    """A fake of a diffusers pipeline: calls back after each step, and draws the seed."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(
        self, prompt: str, *, generator: int, callback_on_step_end: Callable[..., Any], **given: Any
    ) -> Drawn:
        self.calls.append({"prompt": prompt, **given})
        for step in range(given["num_inference_steps"]):
            self.steps += 1
            callback_on_step_end(self, step, 0, {})
            self.go.wait(10)
        return Drawn([Picture(generator)])


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture
def engine(pipeline: Pipeline) -> DiffusionEngine:
    spec = WorkerSpec(engine="diffusion", model_id="painter", socket="unused", api_key="k")
    made = DiffusionEngine(spec, opener=lambda _: pipeline, generator=lambda seed: seed)
    made.load()
    return made


@pytest.fixture
async def client(engine: DiffusionEngine) -> AsyncIterator[httpx.AsyncClient]:
    spec = WorkerSpec(engine="diffusion", model_id="painter", socket="unused", api_key="k")
    transport = httpx.ASGITransport(build_app(spec, engine))
    headers = {"Authorization": "Bearer k"}
    async with httpx.AsyncClient(transport=transport, base_url="http://worker", headers=headers) as made:
        yield made
    await asyncio.to_thread(engine.close)


async def test_several_pictures_have_advancing_seeds(client: httpx.AsyncClient, pipeline: Pipeline) -> None:
    pipeline.go.set()
    body = {"model": "m", "prompt": "a fox", "n": 3, "seed": 41, "steps": 2}
    answer = await client.post("/v1/images/generations", json=body)
    done = events(answer.text)
    assert [one["type"] for one in done] == ["image_generation.completed"] * 3
    assert [base64.b64decode(one["b64_json"]) for one in done] == [
        b"PNG 41 None",
        b"PNG 42 None",
        b"PNG 43 None",
    ]
    assert [one["seed"] for one in done] == [41, 42, 43]
    assert answer.text.count(": step ") == 6


async def test_drawing_stops_after_the_step_that_runs_when_the_caller_leaves(
    engine: DiffusionEngine, pipeline: Pipeline
) -> None:
    from backends.workers.program.threads import CancelSignal

    cancel = CancelSignal()
    request = ImageRequest(model="m", prompt="a fox")
    arguments, _ = pipeline_arguments(request, DiffusionOptions(steps=100), ALL)
    picture = engine._picture(request, arguments, 1, cancel)
    assert await asyncio.to_thread(next, picture) == b": step 1 of 100\n\n"
    cancel.set()
    pipeline.go.set()
    await asyncio.to_thread(picture.close)
    assert pipeline.steps <= 2


def test_arguments_are_the_requests_over_the_rows() -> None:
    options = DiffusionOptions(size="256x128", steps=7, guidance_scale=3.5)
    plain, unused = pipeline_arguments(ImageRequest(model="m", prompt="p", size="auto"), options, ALL)
    assert plain == {
        "prompt": "p",
        "width": 256,
        "height": 128,
        "num_inference_steps": 7,
        "num_images_per_prompt": 1,
        "guidance_scale": 3.5,
    }
    assert unused == []
    asked = ImageRequest(model="m", prompt="p", size="64x64", steps=3, guidance_scale=0.0, negative_prompt="blur")
    own, _ = pipeline_arguments(asked, options, ALL)
    assert (own["width"], own["num_inference_steps"], own["guidance_scale"]) == (64, 3, 0.0)
    assert own["negative_prompt"] == "blur"


def test_what_the_pipeline_does_not_take_is_left_out_and_named() -> None:
    request = ImageRequest(model="m", prompt="p", negative_prompt="blur", style="vivid", partial_images=2)
    arguments, unused = pipeline_arguments(request, DiffusionOptions(), frozenset({"prompt"}))
    assert "negative_prompt" not in arguments
    assert unused == ["negative_prompt", "style", "partial_images"]


@pytest.mark.parametrize("size", ["100x64", "2048x2048"])
def test_a_size_that_cannot_be_drawn_is_refused(size: str) -> None:
    with pytest.raises(InvalidRequest):
        pipeline_arguments(ImageRequest(model="m", prompt="p", size=size), DiffusionOptions(), ALL)


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    spec = WorkerSpec(engine="diffusion", model_id="painter", path="/nowhere", socket="unused", api_key="k")
    with pytest.raises(EngineMissing, match=r"pip install .*\[images\]"):
        DiffusionEngine(spec).load()
