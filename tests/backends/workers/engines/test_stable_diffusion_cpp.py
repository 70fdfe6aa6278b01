"""The engine stable-diffusion-cpp with a script for stable-diffusion.cpp, which crashes, hangs and paints."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.wire.images import ImageRequest
from backends.workers.engines.pictures.canvas import Canvas
from backends.workers.engines.pictures.painting import Painting
from backends.workers.engines.stable_diffusion_cpp.engine import (
    PainterProcess,
    StableDiffusionCppEngine,
    StableDiffusionCppOptions,
    devices,
    model_file,
    scheduled,
    settings_of,
)
from backends.workers.program.threads import CancelSignal, WorkCancelled
from backends.workers.spec import WorkerSpec
from catalog.errors import ConfigurationError, ModelUnavailable, RequestFailed, UnsupportedParameter

CHILD = """
import os, sys, time
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
settings = connection.recv()
if "broken" in settings["path"]:
    connection.send(("failed", "no such tensor"))
    sys.exit()
if os.path.exists(settings["path"] + ".die"):
    os._exit(3)
connection.send(("ready", None))
while True:
    job = connection.recv()
    connection.send(("step", (1, None)))
    if job["prompt"] == "crash":
        os._exit(139)
    if job["prompt"] == "hang":
        time.sleep(600)
    if job["prompt"] == "fail":
        connection.send(("error", "out of memory"))
    else:
        connection.send(("done", (job["seed"], os.getpid(), b"")))
"""


class Scripted(PainterProcess):
    command = (sys.executable, "-c", CHILD)


def spec(path: Path, **options: Any) -> WorkerSpec:
    return WorkerSpec(
        engine="stable-diffusion-cpp",
        model_id="flux",
        path=str(path),
        socket="unused",
        api_key="k",
        options=options,
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "flux.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def engine(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StableDiffusionCppEngine]:
    monkeypatch.setattr("backends.workers.engines.stable_diffusion_cpp.engine._picture", lambda pixels, _: pixels)
    made = StableDiffusionCppEngine(spec(model), start=Scripted)
    made.load()
    yield made
    made.close()


def painting(prompt: str = "a fox", sources: int = 0) -> Painting:
    pictures: Any = tuple(range(sources))
    return Painting(prompt, None, Canvas(64, 48, pictures), 4, None, 1.0)


def painted(engine: StableDiffusionCppEngine, prompt: str = "a fox", seed: int = 7) -> Any:
    """The report of the child on a picture: the seed, and its process."""
    strokes = engine.paint(painting(prompt), seed, CancelSignal())
    while True:
        try:
            next(strokes)
        except StopIteration as done:
            return done.value


def test_one_process_paints_picture_after_picture(engine: StableDiffusionCppEngine) -> None:
    first, second = painted(engine, seed=7), painted(engine, seed=8)
    assert (first[0], second[0]) == (7, 8)
    assert first[1] == second[1]


def test_a_crash_of_native_code_is_one_requests_error_and_the_next_is_painted(
    engine: StableDiffusionCppEngine,
) -> None:
    before = painted(engine)[1]
    with pytest.raises(RequestFailed, match="exit code 139"):
        painted(engine, "crash")
    assert painted(engine)[1] != before


def test_a_child_that_dies_while_it_loads_is_tried_again_by_the_next_request(
    engine: StableDiffusionCppEngine, model: Path
) -> None:
    death = Path(f"{model}.die")
    death.touch()
    with pytest.raises(RequestFailed, match="exit code 139"):
        painted(engine, "crash")
    with pytest.raises(RequestFailed, match="exit code 3"):
        painted(engine)
    death.unlink()
    assert painted(engine)[0] == 7


def test_a_failure_that_the_child_tells_leaves_it_running(engine: StableDiffusionCppEngine) -> None:
    before = painted(engine)[1]
    with pytest.raises(RequestFailed, match="out of memory"):
        painted(engine, "fail")
    assert painted(engine)[1] == before


def test_work_whose_caller_left_ends_in_the_middle_of_a_step(engine: StableDiffusionCppEngine) -> None:
    cancel = CancelSignal()
    strokes = engine.paint(painting("hang"), 1, cancel)
    assert next(strokes).step == 1
    threading.Timer(0.1, cancel.set).start()
    with pytest.raises(WorkCancelled):
        next(strokes)
    assert painted(engine)[0] == 7


def test_a_caller_who_leaves_between_two_steps_ends_the_work_too(engine: StableDiffusionCppEngine) -> None:
    before = painted(engine)[1]
    strokes = engine.paint(painting("hang"), 1, CancelSignal())
    next(strokes)
    strokes.close()
    assert painted(engine)[1] != before


def test_a_model_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.touch()
    engine = StableDiffusionCppEngine(spec(broken), start=Scripted)
    with pytest.raises(ModelUnavailable, match="no such tensor"):
        engine.load()
    engine.close()


def test_a_file_that_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="missing"):
        StableDiffusionCppEngine(spec(tmp_path / "none.gguf"), start=Scripted).load()


def test_a_folder_with_one_file_of_weights_is_that_model(model: Path) -> None:
    (model.parent / "README.md").touch()
    assert model_file(spec(model.parent)) == model
    (model.parent / "other.safetensors").touch()
    assert model_file(spec(model.parent)) is None


def test_an_unknown_option_is_refused(model: Path) -> None:
    with pytest.raises(ConfigurationError, match="samplr"):
        StableDiffusionCppEngine(spec(model, samplr="euler"), start=Scripted).load()


def test_several_pictures_go_to_a_model_with_references_alone(
    model: Path, engine: StableDiffusionCppEngine
) -> None:
    with pytest.raises(UnsupportedParameter, match="one picture at a time"):
        next(engine.paint(painting(sources=2), 1, CancelSignal()))


def test_a_file_without_its_encoders_is_the_diffusion_part_alone(model: Path) -> None:
    whole = settings_of(spec(model), StableDiffusionCppOptions())
    parts = settings_of(spec(model), StableDiffusionCppOptions(clip_l=Path("~/clip.gguf").expanduser()))
    assert (whole["parts"], parts["parts"]) == (False, True)
    assert parts["clip_l"] == str(Path.home() / "clip.gguf")


@pytest.mark.parametrize(("steps", "strength", "made"), [(25, 1.0, 25), (25, 0.8, 30), (1, 0.5, 1), (4, 0.5, 6)])
def test_the_schedule_is_longer_where_only_its_end_is_made(steps: int, strength: float, made: int) -> None:
    assert scheduled(steps, strength) == made


@pytest.mark.parametrize(
    ("device", "shown"),
    [("cpu", {"CUDA_VISIBLE_DEVICES": ""}), ("cuda:1", {"CUDA_VISIBLE_DEVICES": "1"}), ("mps", {})],
)
def test_the_child_sees_its_device_alone(device: str, shown: dict[str, str]) -> None:
    assert devices(device) == shown


@pytest.mark.parametrize(
    ("options", "asked", "guidance"),
    [({}, None, (7.0, 3.5)), ({}, 0.0, (1.0, 3.5)), ({"guidance_scale": 4}, None, (4.0, 3.5)),
     ({"distilled": True}, 2.5, (1.0, 2.5)), ({"distilled": True}, None, (1.0, 3.5))],
)  # fmt: skip
def test_guidance_is_classifier_free_or_an_input_of_the_model(
    model: Path, options: dict[str, Any], asked: float | None, guidance: tuple[float, float]
) -> None:
    engine = StableDiffusionCppEngine(spec(model, **options), start=Scripted)
    engine.load()
    assert engine._guidance(asked) == guidance
    negative = ImageRequest(model="m", prompt="p", negative_prompt="blur", guidance_scale=asked)
    assert ("negative_prompt" in engine.without_effect(negative)) == (guidance[0] == 1.0)
    engine.close()
