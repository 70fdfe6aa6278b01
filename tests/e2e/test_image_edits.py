"""OpenAI's SDK asks a real server for edits, by OpenAI and by Gemini: money, strictness, fallbacks, traces."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import ImageGenCompletedEvent

from tests.e2e.providers import endpoint, model, providers
from tests.e2e.serving import served
from tests.fakes.google import FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_media import png
from tests.fakes.pictures import encoded, mask, quarters
from tests.fakes.server import Fault

PRICE = {"input": 5, "image_input": 8, "image_output": 30}
CAPABLE = ["image", "image_edit"]
PICTURE = encoded(quarters(64, 48))


@dataclass
class Studio:
    """A server between two providers that draw."""

    address: str
    client: openai.OpenAI
    openai: FakeOpenAI
    google: FakeGoogle

    def edit(self, name: str, **fields: Any) -> httpx.Response:
        """An edit whose form is written by hand."""
        files = [("image", ("a.png", PICTURE)), *fields.pop("files", [])]
        headers = fields.pop("headers", {})
        data = {"model": name, "prompt": "a hat", **fields}
        return httpx.post(f"{self.address}/images/edits", data=data, files=files, headers=headers, timeout=30)

    def cost(self, name: str) -> Decimal:
        report = httpx.get(f"{self.address}/usage", params={"by": "model"}).json()
        return sum((Decimal(row["cost"]) for row in report["data"] if row["model"] == name), Decimal(0))


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder: Path = tmp_path_factory.mktemp("studio")
    first, second = FakeOpenAI(), FakeGoogle()
    second.pictures = (base64.b64encode(png()).decode(),)
    with providers(first, second):
        rows = endpoint("far", first)
        rows += f'[[endpoint]]\nid = "g"\nprotocol = "google"\nbase_url = "{second.base_url}"\n'
        rows += 'key_env = ["FAKE_KEY"]\n'
        rows += model("brush", "gpt-image-1", at="far", capabilities=CAPABLE, price=PRICE)
        rows += model("gemini", "gemini-3-pro-image", at="g", capabilities=CAPABLE, price=PRICE)
        rows += model("pencil", "gpt-image-1", at="far", capabilities=["image"], price=PRICE)
        (folder / "roundhouse.toml").write_text(rows)
        environment = {"ROUNDHOUSE_DATA_DIR": str(folder / "data"), "FAKE_KEY": second.key}
        with (
            served(folder, environment=environment) as running,
            openai.OpenAI(base_url=running.v1, api_key="none", max_retries=0) as client,
        ):
            yield Studio(running.v1, client, first, second)


def test_an_edit_is_booked_by_the_tokens_of_its_pictures(studio: Studio) -> None:
    before = studio.cost("brush")
    hole = mask(64, 48, (0, 0, 9, 9))
    answer = studio.client.images.with_raw_response.edit(
        model="brush", image=PICTURE, mask=hole, prompt="a hat", quality="low"
    )
    assert answer.parse().data[0].b64_json == base64.b64encode(png()).decode()  # type: ignore[index]
    assert studio.openai.calls[-1].files == {"image": PICTURE, "mask": hole}
    assert studio.cost("brush") - before == (5 * Decimal(5) + 10 * Decimal(30)) / 1_000_000
    trace = httpx.get(f"{studio.address}/traces/{answer.headers['x-roundhouse-trace']}").json()
    assert [attempt["model"] for attempt in trace["attempts"]] == ["brush"]


def test_gemini_changes_pictures_too_and_says_what_it_lacks(studio: Studio) -> None:
    answer = studio.edit("gemini", quality="high", size="1536x1024")
    assert answer.status_code == 200, answer.text
    assert set(answer.headers["x-roundhouse-dropped"].split(", ")) == {"quality", "size"}
    assert answer.json()["usage"]["input_tokens"] == 10
    parts = studio.google.calls[-1].body["contents"][0]["parts"]
    assert base64.b64decode(parts[0]["inlineData"]["data"]) == PICTURE


def test_gemini_gives_its_own_format_and_a_variation_is_an_edit_and_both_are_said(studio: Studio) -> None:
    answer = httpx.post(
        f"{studio.address}/images/variations",
        data={"model": "gemini", "output_format": "webp"},
        files={"image": ("a.png", PICTURE)},
        timeout=30,
    )
    assert (answer.status_code, answer.json()["output_format"]) == (200, "png")
    assert answer.headers["x-roundhouse-dropped"] == "output_format"
    assert "asked for an edit" in answer.headers["x-roundhouse-notice"]


def test_strict_refuses_what_would_be_left_out(studio: Studio) -> None:
    calls = len(studio.google.calls)
    answer = studio.edit("gemini", quality="high", headers={"x-roundhouse-strict": "true"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert len(studio.google.calls) == calls


def test_a_mask_that_one_provider_cannot_take_goes_to_the_other(studio: Studio) -> None:
    hole = ("mask", ("m.png", mask(64, 48, (0, 0, 9, 9))))
    for _ in range(4):  # whichever of both auto prefers
        answer = studio.edit("auto", files=[hole])
        assert (answer.status_code, answer.headers["x-roundhouse-model"]) == (200, "brush")
    refused = studio.edit("gemini", files=[hole])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "mask")


def test_a_model_that_only_draws_is_not_asked_for_edits(studio: Studio) -> None:
    answer = studio.edit("pencil")
    told = answer.json()["error"]
    assert (answer.status_code, told["code"]) == (400, "model_capability_mismatch")
    assert "brush" in told["message"]


def test_a_url_is_this_servers_and_shows_the_picture(studio: Studio) -> None:
    made = studio.client.images.edit(model="brush", image=PICTURE, prompt="a hat", response_format="url")
    assert made.data is not None
    url = made.data[0].url or ""
    assert url.startswith(f"{studio.address}/images/files/img_")
    shown = httpx.get(url)
    assert (shown.content, shown.headers["content-type"]) == (png(), "image/png")


def test_a_streamed_edit_has_its_partial_pictures(studio: Studio) -> None:
    events = list(
        studio.client.images.edit(model="brush", image=PICTURE, prompt="a hat", stream=True, partial_images=2)
    )
    assert [event.type for event in events] == [*["image_edit.partial_image"] * 2, "image_edit.completed"]


def test_a_paid_picture_is_given_though_another_failed(studio: Studio) -> None:
    studio.google.script(Fault(), Fault(refuse=True))
    before = studio.cost("gemini")
    answer = studio.edit("gemini", n=2, output_format="webp")
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == 1
    assert answer.json()["output_format"] == "png"
    notice = answer.headers["x-roundhouse-notice"]
    assert "1 of the 2 pictures" in notice
    assert "no webp" in notice
    assert studio.cost("gemini") > before


def test_data_that_is_no_picture_is_a_failure_and_another_model_is_asked(studio: Studio) -> None:
    good, studio.google.pictures = studio.google.pictures, (base64.b64encode(b"<html>").decode(),)
    try:
        answer = studio.edit("gemini")
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_protocol_error")
        for _ in range(3):  # whichever of both auto prefers
            answer = studio.edit("auto")
            assert (answer.status_code, answer.headers["x-roundhouse-model"]) == (200, "brush")
    finally:
        studio.google.pictures = good


@pytest.mark.parametrize("name", ["gemini", "brush"])
def test_streamed_pictures_have_all_fields_of_the_sdks_types(studio: Studio, name: str) -> None:
    *_, last = studio.client.images.generate(model=name, prompt="a fox", stream=True)
    ImageGenCompletedEvent.model_validate(last.model_dump(), strict=True)
