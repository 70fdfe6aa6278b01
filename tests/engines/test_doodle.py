"""The starter that draws, by a real worker: what it draws for words that it never learned as they stand."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import av
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from catalog.types import Json
from tests.conformance.capability_checks import events
from tests.conformance.worker import Worker, worker_of

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def doodle() -> Iterator[Worker]:
    with worker_of("doodle") as running:
        yield running


async def _post(worker: Worker, **body: Any) -> httpx.Response:
    async with worker.client() as client:
        return await client.post("/v1/images/generations", json={"model": "m", **body})


async def _drawn(worker: Worker, **body: Any) -> list[Json]:
    answer = await _post(worker, **body)
    assert answer.status_code == 200, answer.text
    return events(answer.text)


def _pixels(drawn: Json, layout: str = "rgb24") -> NDArray[np.int64]:
    with av.open(io.BytesIO(base64.b64decode(drawn["b64_json"]))) as container:
        assert isinstance(container, av.container.InputContainer)
        return next(container.decode(video=0)).to_ndarray(format=layout).astype(np.int64)


def _main_colour(drawn: Json) -> tuple[int, int, int]:
    """The mean of the saturated pixels."""
    pixels = _pixels(drawn).reshape(-1, 3)
    strong = pixels[np.ptp(pixels, axis=1) > 80]
    red, green, blue = strong.mean(axis=0).astype(int).tolist()
    return red, green, blue


SENTENCES = {
    "Could you sketch a rocket for my daughter?": {"rocket"},
    "an illustration that shows a whale in the sea": {"whale", "spouting whale"},
    "I'd love to see one fluffy rabbit": {"rabbit", "rabbit face"},
    "the fruit that is long, curved and yellow: a banana": {"banana"},
    "a cup of hot coffee on a table": {"hot beverage"},
    "an old steam train": {"locomotive", "train"},
    "draw the Eiffel tower, or any other tower in Tokyo": {"Tokyo tower"},
    "A slice of pizza with cheese": {"pizza"},
}


@pytest.mark.parametrize("prompt", SENTENCES)
async def test_the_thing_in_a_sentence_is_drawn(doodle: Worker, prompt: str) -> None:
    (drawn,) = await _drawn(doodle, prompt=prompt, seed=1)
    told, _, style = drawn["revised_prompt"].rpartition(" (")
    assert told.partition(", in ")[0] in SENTENCES[prompt]
    assert style.endswith(" style)")


@pytest.mark.parametrize(
    ("prompt", "strongest", "weakest"),
    [("a red apple", 0, 2), ("a blue car", 2, 0), ("a yellow sun", 0, 2), ("a green dragon", 1, 0)],
)
async def test_colours_are_as_they_are_asked_for(
    doodle: Worker, prompt: str, strongest: int, weakest: int
) -> None:
    for drawn in await _drawn(doodle, prompt=prompt, seed=3, n=4, size="128x128"):
        colour = _main_colour(drawn)
        assert colour.index(max(colour)) == strongest, drawn["revised_prompt"]
        assert colour[strongest] > colour[weakest] + 30


async def test_a_seed_gives_the_same_picture_and_others_vary_it(doodle: Worker) -> None:
    first = await _drawn(doodle, prompt="a cat", seed=11, n=6, size="96x96")
    again = await _drawn(doodle, prompt="a cat", seed=13, size="96x96")
    assert [each["seed"] for each in first] == [11, 12, 13, 14, 15, 16]
    assert again[0]["b64_json"] == first[2]["b64_json"]
    assert len({each["b64_json"] for each in first}) == 6


async def test_without_a_seed_pictures_differ_and_tell_theirs(doodle: Worker) -> None:
    one, other = [(await _drawn(doodle, prompt="a house"))[0] for _ in range(2)]
    assert one["seed"] != other["seed"]
    same = (await _drawn(doodle, prompt="a house", seed=one["seed"]))[0]
    assert same["b64_json"] == one["b64_json"]


async def test_a_transparent_background_is_one(doodle: Worker) -> None:
    body = {"prompt": "a star", "seed": 2, "size": "100x80", "background": "transparent"}
    (drawn,) = await _drawn(doodle, **body)
    pixels = _pixels(drawn, "rgba")
    assert pixels.shape == (80, 100, 4)
    assert drawn["background"] == "transparent"
    assert pixels[0, 0, 3] == 0
    assert pixels[40, 50, 3] > 235
    (opaque,) = await _drawn(doodle, **{**body, "background": "auto"})
    assert _pixels(opaque)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"size": "4096x4096"}, 400, "size"),
        ({"size": "12x512"}, 400, "size"),
        ({"prompt": "a very long story about a fox " * 200}, 400, "prompt"),
        ({"prompt": ""}, 400, "prompt"),
        ({"n": 11}, 400, "n"),
        ({"output_format": "svg"}, 400, "output_format"),
    ],
)
async def test_what_cannot_be_drawn_is_refused(doodle: Worker, body: Json, status: int, param: str) -> None:
    answer = await _post(doodle, **{"prompt": "a fox", **body})
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


async def test_what_has_no_effect_is_told(doodle: Worker) -> None:
    answer = await _post(doodle, prompt="a fox", size="64x64", quality="high", partial_images=2)
    assert answer.headers["x-roundhouse-dropped"] == "quality, partial_images"
