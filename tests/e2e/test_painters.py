"""Pictures that engines of this machine change, pixel by pixel, through a whole gateway; by ``make engines``."""

from __future__ import annotations

import base64
import time
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from catalog.model import Model
from tests.e2e.serving import Served
from tests.e2e.test_engines import PAINTERS, client, painter, server
from tests.fakes.pictures import Pixels, decoded, encoded, mask, quarters

__all__ = ["client", "painter", "server"]
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not PAINTERS, reason="ROUNDHOUSE_ENGINES names no environments; run make engines"),
]


def noise(width: int, height: int) -> Pixels:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def pixels_of(answer: Any, at: int = 0) -> Pixels:
    return decoded(base64.b64decode(answer.data[at].b64_json))


@pytest.mark.parametrize("size", [(64, 48), (201, 123)], ids=["usual", "large"])
def test_only_the_masked_part_of_a_picture_changes(
    client: openai.OpenAI, painter: Model, size: tuple[int, int]
) -> None:
    width, height = size
    before, hole = noise(width, height), (width // 2, 0, width, height)
    after = pixels_of(
        client.images.edit(model=painter.id, image=encoded(before), mask=mask(width, height, hole), prompt="a hat")
    )
    assert after.shape == before.shape
    kept, changed = np.s_[:, : width // 2], np.s_[:, width // 2 :]
    assert np.array_equal(after[kept], before[kept])
    assert np.mean(after[changed] != before[changed]) > 0.5


def test_an_edit_begins_from_the_picture_and_a_seed_repeats_it(client: openai.OpenAI, painter: Model) -> None:
    def edited(picture: Pixels, seed: int, strength: float) -> Pixels:
        extra = {"seed": seed, "strength": strength}
        return pixels_of(
            client.images.edit(model=painter.id, image=encoded(picture), prompt="a hat", extra_body=extra)
        )

    one, other = quarters(64, 48), noise(64, 48)
    assert np.array_equal(edited(one, 7, 0.5), edited(one, 7, 0.5))
    assert not np.array_equal(edited(one, 7, 0.5), edited(one, 8, 0.5))
    assert not np.array_equal(edited(one, 7, 0.5), edited(other, 7, 0.5))


def test_a_picture_may_be_fitted_to_another_size(client: openai.OpenAI, painter: Model) -> None:
    answer = client.images.edit(model=painter.id, image=encoded(quarters(64, 48)), prompt="a hat", size="32x64")
    assert pixels_of(answer).shape == (64, 32, 3)


def test_a_photograph_on_its_side_is_upright(client: openai.OpenAI, painter: Model) -> None:
    photograph = encoded(quarters(64, 32), "jpeg", orientation=6)
    answer = client.images.edit(model=painter.id, image=photograph, prompt="a hat")
    assert pixels_of(answer).shape == (64, 32, 3)


def test_variations_differ_and_tell_their_seeds(client: openai.OpenAI, painter: Model) -> None:
    picture = encoded(quarters(64, 48))
    with pytest.warns(DeprecationWarning, match="deprecated"):  # OpenAI has retired them
        answer: Any = client.images.create_variation(model=painter.id, image=picture, n=2, extra_body={"seed": 5})
    assert [one.seed for one in answer.data] == [5, 6]
    assert not np.array_equal(pixels_of(answer, 0), pixels_of(answer, 1))


def test_an_edit_streams_partial_pictures(client: openai.OpenAI, painter: Model) -> None:
    events: list[Any] = list(
        client.images.edit(
            model=painter.id, image=encoded(quarters(64, 48)), prompt="a hat", stream=True, partial_images=2
        )
    )
    assert [event.type for event in events] == [
        *(["image_edit.partial_image"] * 2),
        "image_edit.completed",
    ]
    assert [event.partial_image_index for event in events[:-1]] == [0, 1]
    sizes = {decoded(base64.b64decode(event.b64_json)).shape for event in events}
    assert sizes == {(48, 64, 3)}


def test_partial_pictures_do_not_change_the_finished_one(client: openai.OpenAI, painter: Model) -> None:
    def drawn(**fields: Any) -> bytes:
        extra = {"seed": 9}
        events: list[Any] = list(
            client.images.generate(model=painter.id, prompt="a fox", stream=True, extra_body=extra, **fields)
        )
        return base64.b64decode(events[-1].b64_json)

    assert drawn(partial_images=3) == drawn()


def test_an_adapter_changes_what_a_model_draws(client: openai.OpenAI) -> None:
    if "inked-diffusion" not in {row.id for row in PAINTERS}:
        pytest.skip("the engine diffusion is not among those that were built")
    plain, inked = (
        pixels_of(client.images.generate(model=name, prompt="a fox", extra_body={"seed": 3}))
        for name in ("painter-diffusion", "inked-diffusion")
    )
    assert not np.array_equal(plain, inked)


def test_a_picture_whose_data_are_damaged_is_refused(server: Served, painter: Model) -> None:
    whole = encoded(noise(64, 48))
    answer = httpx.post(
        f"{server.v1}/images/edits",
        data={"model": painter.id, "prompt": "a hat"},
        files={"image": ("a.png", whole[: len(whole) // 2])},
        timeout=60,
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "undecodable_media")
    assert answer.json()["error"]["param"] == "image"


def test_a_second_picture_is_refused_by_a_model_that_changes_one(server: Served, painter: Model) -> None:
    picture = ("image[]", ("a.png", encoded(quarters(64, 48))))
    answer = httpx.post(
        f"{server.v1}/images/edits",
        data={"model": painter.id, "prompt": "a hat"},
        files=[picture, picture],
        timeout=60,
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")


def test_the_next_caller_need_not_wait_for_one_who_left(
    server: Served, client: openai.OpenAI, painter: Model
) -> None:
    body = {"model": painter.id, "prompt": "a fox", "steps": 500, "size": "512x512", "stream": True}
    with httpx.stream("POST", f"{server.v1}/images/generations", json=body, timeout=60) as answer:
        assert answer.status_code == 200
    began = time.monotonic()
    client.images.generate(model=painter.id, prompt="a fox")
    assert time.monotonic() - began < 20
