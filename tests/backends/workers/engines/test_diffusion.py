"""The engine diffusion without torch and diffusers, with a fake pipeline that counts its steps."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from backends.wire.images import ImageEditRequest, ImageRequest
from backends.workers.engines.diffusion import DiffusionEngine, arguments_of
from backends.workers.engines.pictures.canvas import Canvas
from backends.workers.engines.pictures.glimpses import estimates
from backends.workers.engines.pictures.loading import DiffusionOptions, PictureLora, add_adapters, offload_of
from backends.workers.engines.pictures.painting import (
    Painting,
    PictureOptions,
    partial_steps,
    planned,
    quality_steps,
    strength_of,
)
from backends.workers.program.app import build_app
from backends.workers.program.threads import CancelSignal, WorkCancelled
from backends.workers.spec import WorkerSpec
from catalog.errors import EngineMissing, UnsupportedParameter
from tests.conformance.capability_checks import events

ALL = frozenset({"prompt", "negative_prompt", "guidance_scale", "width", "height", "num_inference_steps"})
SPEC = WorkerSpec(engine="diffusion", model_id="painter", socket="unused", api_key="k")


class Picture:
    width, height = 512, 512

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def save(self, file: Any, *, format: str, quality: int | None = None) -> None:  # noqa: A002 - Pillow's name
        file.write(f"{format} {self.seed} {quality}".encode())


@dataclass
class Drawn:
    images: list[Picture]


@dataclass(eq=False)
class Pipeline:
    """A fake of a diffusers pipeline: calls back after each step, and draws the seed."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(
        self,
        prompt: str,
        *,
        generator: int,
        num_inference_steps: int,
        callback_on_step_end: Callable[..., Any],
        negative_prompt: str | None = None,
        guidance_scale: float = 7.5,
        width: int = 0,
        height: int = 0,
    ) -> Drawn:
        self.calls.append({"prompt": prompt, "width": width, "height": height, "negative_prompt": negative_prompt})
        for step in range(num_inference_steps):
            self.steps += 1
            callback_on_step_end(self, step, 0, {})
            self.go.wait(10)
        return Drawn([Picture(generator)])


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture
def engine(pipeline: Pipeline) -> DiffusionEngine:
    made = DiffusionEngine(SPEC, opener=lambda _, __: pipeline, generator=lambda seed: seed)
    made.load()
    return made


@pytest.fixture
async def client(engine: DiffusionEngine) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(SPEC, engine))
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
    assert [(one["seed"], one["index"]) for one in done] == [(41, 0), (42, 1), (43, 2)]
    assert answer.text.count(": step ") == 6


async def test_drawing_stops_after_the_step_that_runs_when_the_caller_leaves(
    engine: DiffusionEngine, pipeline: Pipeline
) -> None:
    cancel = CancelSignal()
    painting = planned(ImageRequest(model="m", prompt="a fox"), DiffusionOptions(steps=100))
    strokes = engine.paint(painting, 1, cancel)
    assert (await asyncio.to_thread(next, strokes)).step == 1
    cancel.set()
    pipeline.go.set()
    await asyncio.to_thread(strokes.close)
    assert pipeline.steps <= 2


def planned_arguments(request: ImageRequest, options: PictureOptions) -> dict[str, Any]:
    return arguments_of(planned(request, options), ALL)


def test_arguments_are_the_requests_over_the_rows() -> None:
    options = DiffusionOptions(size="256x128", steps=7, guidance_scale=3.5)
    plain = planned_arguments(ImageRequest(model="m", prompt="p", size="auto"), options)
    assert plain == {
        "prompt": "p",
        "width": 256,
        "height": 128,
        "num_inference_steps": 7,
        "guidance_scale": 3.5,
    }
    asked = ImageRequest(model="m", prompt="p", size="64x64", steps=3, guidance_scale=0.0, negative_prompt="blur")
    own = planned_arguments(asked, options)
    assert (own["width"], own["num_inference_steps"], own["guidance_scale"]) == (64, 3, 0.0)
    assert own["negative_prompt"] == "blur"


def painting(*, sources: int = 0, steps: int = 25, strength: float = 1.0) -> Painting:
    pictures: Any = tuple(range(sources))
    return Painting("p", None, Canvas(64, 64, pictures), steps, None, strength)


@pytest.mark.parametrize(
    ("steps", "strength", "scheduled"), [(25, 0.8, 32), (2, 0.5, 4), (25, 0.01, 1000), (4, 1.0, 4)]
)
def test_a_changed_picture_takes_as_many_steps_as_a_new_one(steps: int, strength: float, scheduled: int) -> None:
    known = ALL | {"image", "strength"}
    arguments = arguments_of(painting(sources=1, steps=steps, strength=strength), known)
    assert (arguments["num_inference_steps"], arguments["image"]) == (scheduled, 0)


def test_several_pictures_go_to_a_model_that_takes_them_and_are_refused_elsewhere() -> None:
    assert arguments_of(painting(sources=2), ALL | {"image"})["image"] == [0, 1]
    with pytest.raises(UnsupportedParameter, match="one picture at a time"):
        arguments_of(painting(sources=2), ALL | {"image", "strength"})


async def test_what_the_model_does_not_heed_is_left_out_and_named(
    client: httpx.AsyncClient, pipeline: Pipeline
) -> None:
    pipeline.go.set()
    body = {
        "model": "m", "prompt": "p", "negative_prompt": "blur", "style": "vivid", "partial_images": 2,
        "stream": True, "background": "transparent", "quality": "high", "steps": 1, "sampler": "x",
    }  # fmt: skip
    answer = await client.post("/v1/images/generations", json=body)
    assert answer.headers["x-roundhouse-dropped"] == "partial_images, background, quality, sampler"
    assert pipeline.calls[0]["negative_prompt"] == "blur"


@pytest.mark.parametrize("size", ["100x64", "2048x2048"])
async def test_a_size_that_cannot_be_drawn_is_refused(client: httpx.AsyncClient, size: str) -> None:
    answer = await client.post("/v1/images/generations", json={"model": "m", "prompt": "p", "size": size})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "size")


@pytest.mark.parametrize("kind", ["gif", "svg"])
async def test_formats_that_no_engine_writes_are_refused(client: httpx.AsyncClient, kind: str) -> None:
    body = {"model": "m", "prompt": "p", "output_format": kind}
    answer = await client.post("/v1/images/generations", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_value")


@pytest.mark.parametrize(
    ("quality", "usual", "steps"),
    [("low", 25, 15), ("high", 20, 30), ("auto", 25, 25), (None, 25, 25), ("low", 4, 4), ("max", 400, 500)],
)
def test_quality_is_a_number_of_steps_except_for_distilled_models(
    quality: str | None, usual: int, steps: int
) -> None:
    assert quality_steps(quality, usual) == steps


@pytest.mark.parametrize(
    ("fields", "strength"),
    [
        ({}, 0.8),
        ({"input_fidelity": "low"}, 0.8),
        ({"input_fidelity": "high"}, 0.5),
        ({"mask": b"m"}, 1.0),
        ({"mask": b"m", "strength": 0.3}, 0.3),
    ],
)
def test_fidelity_and_masks_say_how_far_a_picture_may_change(fields: dict[str, Any], strength: float) -> None:
    request = ImageEditRequest.model_validate({"model": "m", "prompt": "p", "image": (b"i",), **fields})
    assert strength_of(request) == strength


@pytest.mark.parametrize(
    ("steps", "count", "after"), [(25, 3, {6, 12, 19}), (4, 1, {2}), (2, 3, {1}), (9, 0, set())]
)
def test_partial_pictures_are_spread_over_the_steps(steps: int, count: int, after: set[int]) -> None:
    assert partial_steps(steps, count) == after


# ---- loading

GIB = 1 << 30


@pytest.mark.parametrize(
    ("parts", "free", "way"),
    [
        ([2 * GIB, 4 * GIB], 8 * GIB, "none"),
        ([8 * GIB, 12 * GIB], 16 * GIB, "model"),
        ([8 * GIB, 24 * GIB], 16 * GIB, "sequential"),
        ([8 * GIB, 24 * GIB], None, "none"),
    ],
)
def test_weights_wait_in_main_memory_only_where_they_must(parts: list[int], free: int | None, way: str) -> None:
    assert offload_of(DiffusionOptions(), parts, free) == way


def test_the_row_may_choose_the_offloading() -> None:
    assert offload_of(DiffusionOptions(offload="sequential"), [1], GIB) == "sequential"


def test_adapters_are_loaded_as_safetensors_with_their_weights() -> None:
    calls: list[Any] = []
    pipeline = SimpleNamespace(
        load_lora_weights=lambda *given, **named: calls.append((given, named)),
        set_adapters=lambda *given, **named: calls.append((given, named)),
    )
    add_adapters(pipeline, (PictureLora.model_validate({"path": "/loras/ink.safetensors", "scale": 0.5}),))
    named = {"weight_name": "ink.safetensors", "adapter_name": "adapter0", "use_safetensors": True}
    assert calls == [(("/loras",), named), ((["adapter0"],), {"adapter_weights": [0.5]})]


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    spec = WorkerSpec(engine="diffusion", model_id="painter", path="/nowhere", socket="unused", api_key="k")
    with pytest.raises(EngineMissing, match=r"pip install .*\[images\]"):
        DiffusionEngine(spec).load()


def test_an_estimate_is_the_schedulers_own_and_its_step_keeps_its_signature() -> None:
    class Scheduler:
        def step(
            self, output: int, timestep: int, sample: int, eta: float = 0.0, *, return_dict: bool = True
        ) -> Any:
            assert return_dict
            return SimpleNamespace(prev_sample=output + sample + eta, pred_original_sample=42)

    scheduler = Scheduler()
    with estimates(SimpleNamespace(scheduler=scheduler)) as latest:
        import inspect

        assert latest() is None
        assert "eta" in inspect.signature(scheduler.step).parameters
        assert scheduler.step(1, 0, 2, eta=3, return_dict=False) == (6,)
        assert latest() == 42
    assert scheduler.step.__func__ is Scheduler.step  # type: ignore[attr-defined]


def test_work_that_is_cancelled_before_it_begins_draws_nothing(
    engine: DiffusionEngine, pipeline: Pipeline
) -> None:
    cancel = CancelSignal()
    cancel.set()
    strokes = engine.paint(planned(ImageRequest(model="m", prompt="p"), DiffusionOptions()), 1, cancel)
    with pytest.raises(WorkCancelled):
        list(strokes)
    assert pipeline.steps == 1
