"""Edits and variations of pictures over OpenAI's wire, and pictures by Gemini."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from google.genai import types

from backends.base import Backend, Draw, EditImages, Upstream
from backends.google import GoogleBackend
from backends.google import pictures as gemini
from backends.google.request import translate
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend
from backends.notices import collect
from backends.openai.backend import OpenAIBackend
from backends.openai.parameters import OPENAI
from backends.parameters import ParameterTable
from backends.wire.images import VARY, ImageEditRequest, ImageRequest
from catalog.errors import AnswerInvalid, InvalidRequest, UnsupportedParameter
from catalog.types import Json
from tests.fakes.google import FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_media import png
from tests.fakes.pictures import encoded, quarters

PNG, JPEG = encoded(quarters(8, 6)), encoded(quarters(8, 6), "jpeg")
B64 = base64.b64encode(png()).decode()


class AtOpenAI(OpenAIBackend):
    """The rules of api.openai.com at another address."""

    def parameters(self, upstream: Upstream) -> ParameterTable:
        del upstream
        return OPENAI


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient() as client:
        yield client


def at(fake: FakeOpenAI, **fields: Any) -> Upstream:
    return Upstream("o", "openai", fake.base_url, "gpt-image-1", **fields)


def edit(**fields: Any) -> ImageEditRequest:
    return ImageEditRequest.model_validate({"model": "m", "prompt": "a hat", "image": (PNG,), **fields})


def vary(**fields: Any) -> ImageEditRequest:
    return edit(prompt="", variation=True, **fields)


async def events_of(backend: EditImages, upstream: Upstream, request: ImageEditRequest) -> list[Json]:
    return [event async for event in backend.edit(upstream, request)]


async def test_an_edit_is_a_form_as_openais_sdk_writes_it(fake: FakeOpenAI, http: HttpClient) -> None:
    request = edit(
        mask=PNG, n=2, quality="low", input_fidelity="high", background="transparent", response_format="url",
        output_compression=50, output_format="webp",
    )  # fmt: skip
    events = await events_of(AtOpenAI(http), at(fake), request)
    assert [event["type"] for event in events] == ["image_edit.completed"] * 2
    assert [event["b64_json"] for event in events] == [B64] * 2
    (call,) = fake.calls
    assert (call.path, call.files) == ("/v1/images/edits", {"image": PNG, "mask": PNG})
    assert call.body == {
        "model": "gpt-image-1", "prompt": "a hat", "n": "2", "quality": "low", "input_fidelity": "high",
        "background": "transparent", "output_compression": "50", "output_format": "webp",
    }  # fmt: skip


async def test_several_pictures_are_an_array_in_their_order(fake: FakeOpenAI, http: HttpClient) -> None:
    await events_of(
        AtOpenAI(http), at(fake), edit(image=(PNG, JPEG), svg={"model": "m", "reasoning": {"effort": "low"}})
    )
    (call,) = fake.calls
    assert list(call.files.values()) == [PNG, JPEG]
    assert (call.body["svg[model]"], call.body["svg[reasoning][effort]"]) == ("m", "low")


async def test_an_edit_is_streamed_with_its_partial_pictures(fake: FakeOpenAI, http: HttpClient) -> None:
    events = await events_of(OpenAIBackend(http), at(fake), edit(stream=True, partial_images=1))
    assert [event["type"] for event in events] == ["image_edit.partial_image", "image_edit.completed"]


async def test_openai_is_sent_no_seed_and_no_strength_and_they_are_named(
    fake: FakeOpenAI, http: HttpClient
) -> None:
    backend, request = AtOpenAI(http), edit(seed=7, strength=0.5)
    assert backend.dropped(request, at(fake)) == ("seed", "strength")
    await events_of(backend, at(fake), request)
    assert fake.calls[0].body.keys() == {"model", "prompt"}


async def test_other_servers_are_asked_for_bytes_where_the_caller_cares(
    fake: FakeOpenAI, http: HttpClient
) -> None:
    backend = OpenAIBackend(http)
    for form in ("url", "b64_json", None):
        await events_of(backend, at(fake), edit(response_format=form) if form else edit())
    assert [call.body.get("response_format") for call in fake.calls] == ["b64_json", "b64_json", None]


async def test_a_variation_is_one_where_the_server_has_them(fake: FakeOpenAI, http: HttpClient) -> None:
    backend, request = OpenAIBackend(http), vary(n=2, size="512x512", seed=7, steps=4)
    assert backend.dropped(request, at(fake)) == ("seed", "steps")
    events = await events_of(backend, at(fake), request)
    assert [event["type"] for event in events] == ["image_edit.completed"] * 2
    (call,) = fake.calls
    assert (call.path, call.files) == ("/v1/images/variations", {"image": PNG})
    assert call.body == {"model": "gpt-image-1", "n": "2", "size": "512x512"}


async def test_a_variation_at_openai_is_an_edit_and_the_answer_says_so(fake: FakeOpenAI, http: HttpClient) -> None:
    notes = collect()
    await events_of(AtOpenAI(http), at(fake), vary())
    (call,) = fake.calls
    assert (call.path, call.body["prompt"]) == ("/v1/images/edits", VARY)
    assert VARY in notes.notices[0]


@pytest.mark.parametrize("fields", [{"image": (PNG, PNG)}, {"mask": PNG}])
async def test_a_variation_of_more_than_a_picture_is_refused(
    fake: FakeOpenAI, http: HttpClient, fields: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedParameter):
        await events_of(OpenAIBackend(http), at(fake), vary(**fields))
    assert not fake.calls


async def test_a_worker_gets_all_parameters_of_a_variation_and_no_markup(http: HttpClient) -> None:
    backend = LocalWorkerBackend(http)
    async with FakeOpenAI() as fake:
        worker = replace(at(fake), engine="diffusion")
        await events_of(backend, worker, vary(size="64x64", response_format="url"))
        assert fake.calls[0].body == {"model": "gpt-image-1", "size": "64x64"}
        with pytest.raises(UnsupportedParameter, match="markup"):
            await events_of(backend, worker, edit(markup=PNG))


# ---- Gemini


def google(fake: FakeGoogle | None = None, model: str = "gemini-3-pro-image") -> Upstream:
    return Upstream(
        "g", "google", "http://x/v1beta" if fake is None else fake.base_url, model, api_key="AIza-fake"
    )


def config_of(request: ImageRequest, model: str = "gemini-3-pro-image") -> tuple[Json, tuple[str, ...]]:
    """The request for the first picture, by the SDK's types, and the dropped names."""
    chats, dropped = gemini.translate(request, google(model=model))
    body = translate(chats[0], google(model=model)).body
    types.GenerateContentConfig.model_validate(body["generationConfig"])
    return body, dropped


def draw(**fields: Any) -> ImageRequest:
    return ImageRequest.model_validate({"model": "m", "prompt": "a fox", **fields})


async def test_gemini_draws_each_picture_in_a_chat_of_its_own_and_reports_its_seed() -> None:
    async with FakeGoogle() as fake, HttpClient() as http:
        fake.pictures = (B64,)
        backend: Any = GoogleBackend(http)
        assert isinstance(backend, Draw)
        events = [event async for event in backend.draw(google(fake), draw(n=2, seed=7))]
        assert [event["type"] for event in events] == ["image_generation.completed"] * 2
        assert [(event["b64_json"], event["seed"], event["output_format"]) for event in events] == [
            (B64, 7, "png"),
            (B64, 8, "png"),
        ]
        assert [event["usage"]["input_tokens"] for event in events] == [10, 20]
        configs = [call.body["generationConfig"] for call in fake.calls]
        assert configs == [{"responseModalities": ["IMAGE"], "seed": seed} for seed in (7, 8)]


def test_geminis_edit_has_the_pictures_before_the_prompt() -> None:
    body, dropped = config_of(edit(image=(PNG, JPEG), input_fidelity="high"))
    first, second, prompt = body["contents"][0]["parts"]
    assert [part["inlineData"]["mimeType"] for part in (first, second)] == ["image/png", "image/jpeg"]
    assert base64.b64decode(second["inlineData"]["data"]) == JPEG
    assert prompt == {"text": "a hat"}
    assert dropped == ("input_fidelity",)


@pytest.mark.parametrize(
    ("size", "config", "dropped"),
    [
        ("1024x1024", {"aspectRatio": "1:1"}, ()),
        ("2048x2048", {"aspectRatio": "1:1", "imageSize": "2K"}, ()),
        ("1536x1024", {"aspectRatio": "3:2"}, ("size",)),
        ("1792x1024", {"aspectRatio": "16:9"}, ("size",)),
        ("256x256", {"aspectRatio": "1:1"}, ("size",)),
        ("auto", None, ()),
    ],
)
def test_a_size_becomes_geminis_nearest(size: str, config: Json | None, dropped: tuple[str, ...]) -> None:
    body, names = config_of(draw(size=size))
    assert body["generationConfig"].get("imageConfig") == config
    assert names == dropped


def test_what_gemini_lacks_is_named_and_neutral_values_are_not() -> None:
    _, dropped = config_of(
        draw(quality="high", background="transparent", partial_images=1, stream=True, style="s")
    )
    assert dropped == ("quality", "style", "background", "partial_images")
    assert config_of(draw(quality="auto", background="auto", moderation="auto"))[1] == ()


@pytest.mark.parametrize("fields", [{"mask": PNG}, {"markup": PNG}, {"output_format": "svg"}])
def test_gemini_refuses_what_would_change_the_picture(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter):
        gemini.translate(edit(**fields), google())


async def test_a_prompt_that_gemini_does_not_draw_is_the_callers_error() -> None:
    async with FakeGoogle() as fake, HttpClient() as http:
        backend: Any = GoogleBackend(http)
        from tests.fakes.server import Fault

        fake.script(Fault(refuse=True))
        with pytest.raises(InvalidRequest) as refused:
            await anext(backend.draw(google(fake), draw()))
        assert refused.value.code == "moderation_blocked"
        with pytest.raises(AnswerInvalid, match="drew no picture"):
            await anext(backend.draw(google(fake), draw()))


def test_every_backend_that_draws_can_be_asked_for_edits() -> None:
    backend: Backend = LocalWorkerBackend.__new__(LocalWorkerBackend)
    assert isinstance(backend, EditImages)
