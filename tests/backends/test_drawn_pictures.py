"""Pictures that servers drew: data that is no picture, other formats, and fewer than were asked for."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from backends.base import Upstream
from backends.google import GoogleBackend
from backends.http import HttpClient
from backends.notices import Notes, collect
from backends.openai.backend import OpenAIBackend
from backends.wire.images import ImageEditRequest, ImageRequest
from catalog.errors import AnswerInvalid, InvalidRequest, StreamBroken, UpstreamError, UpstreamProtocolError
from catalog.types import Json
from tests.fakes.google import FakeGoogle
from tests.fakes.liar import FakeLiar
from tests.fakes.pictures import encoded, quarters
from tests.fakes.server import Call, Fault, Route


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


PNG = b64(encoded(quarters(8, 6)))
JPEG = b64(encoded(quarters(8, 6), "jpeg"))
WEBP = b64(encoded(quarters(8, 6), "webp"))
SVG = b64(b'<svg xmlns="http://www.w3.org/2000/svg"/>')
LONG_PROFILE = b64(b"\xff\xd8" + (b"\xff\xe2\xff\xff" + bytes(65533)) * 6 + encoded(quarters(8, 6), "jpeg")[2:])
NONE = [
    "@@@@", "", "AAA", b64(b"no picture"), b64(b"<html></html>"), b64(b"PK\3\4" + bytes(60)),
    b64(b"\x89PNG\r\n\x1a\n"), "A" * 2_000_000, f"data:image/png;base64,{PNG}",
]  # fmt: skip


@pytest.fixture
async def liar() -> AsyncIterator[FakeLiar]:
    async with FakeLiar() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient() as client:
        yield client


def at(liar: FakeLiar) -> Upstream:
    return Upstream("o", "openai", liar.base_url, "painter")


def draw(**fields: Any) -> ImageRequest:
    return ImageRequest.model_validate({"model": "m", "prompt": "a fox", **fields})


def edit(**fields: Any) -> ImageEditRequest:
    picture = (encoded(quarters(8, 6)),)
    return ImageEditRequest.model_validate({"model": "m", "prompt": "a fox", "image": picture, **fields})


def listed(*pictures: str, **fields: Any) -> Json:
    return {"data": [{"b64_json": picture} for picture in pictures], **fields}


def completed(picture: str, state: str = "completed") -> Json:
    return {"type": f"image_generation.{state}", "b64_json": picture}


async def drawn(liar: FakeLiar, http: HttpClient, request: ImageRequest) -> tuple[list[Json], Notes]:
    notes, backend = collect(), OpenAIBackend(http)
    if isinstance(request, ImageEditRequest):
        events = backend.edit(at(liar), request)
    else:
        events = backend.draw(at(liar), request)
    return [event async for event in events], notes


@pytest.mark.parametrize("data", NONE, ids=lambda data: data[:20])
async def test_what_is_no_picture_is_a_protocol_error(liar: FakeLiar, http: HttpClient, data: str) -> None:
    liar.says(listed(data, usage={"output_tokens": 5}))
    for request in (draw(), draw(stream=True), edit()):
        with pytest.raises(UpstreamProtocolError, match="a picture that is none"):
            await drawn(liar, http, request)
    liar.streams(completed(data, "partial_image"), completed(data))
    with pytest.raises(UpstreamProtocolError):
        await drawn(liar, http, draw(stream=True, partial_images=1))


@pytest.mark.parametrize("places", [(0, 1), (1, 0)])
async def test_a_picture_beside_what_is_none_is_given_and_the_answer_says_so(
    liar: FakeLiar, http: HttpClient, places: tuple[int, int]
) -> None:
    liar.says(listed(*[(PNG, "@@@@")[at] for at in places]))
    events, notes = await drawn(liar, http, draw(n=2))
    assert [event["b64_json"] for event in events] == [PNG]
    assert notes.notices == ["'painter' drew 1 of the 2 pictures that were asked for."]


@pytest.mark.parametrize("request_", [draw(n=3), edit(n=3)], ids=["draw", "edit"])
async def test_fewer_pictures_than_were_asked_for_are_given(
    liar: FakeLiar, http: HttpClient, request_: ImageRequest
) -> None:
    liar.says(listed(PNG, PNG))
    events, notes = await drawn(liar, http, request_)
    assert (len(events), notes.notices) == (2, ["'painter' drew 2 of the 3 pictures that were asked for."])


async def test_as_many_as_were_asked_for_need_no_notice(liar: FakeLiar, http: HttpClient) -> None:
    liar.says(listed(PNG, PNG, PNG))
    events, notes = await drawn(liar, http, draw(n=3))
    assert (len(events), notes.notices, notes.dropped) == (3, [], [])


@pytest.mark.parametrize("request_", [draw(n=2), edit(n=2)], ids=["draw", "edit"])
async def test_pictures_beyond_those_that_were_asked_for_are_left_out_with_a_notice_and_their_usage_counts(
    liar: FakeLiar, http: HttpClient, request_: ImageRequest
) -> None:
    usage = {"input_tokens": 5, "output_tokens": 9}
    liar.says(listed(PNG, PNG, PNG, usage=usage))
    events, notes = await drawn(liar, http, request_)
    assert (len(events), notes.dropped) == (2, [])
    assert notes.notices == ["'painter' drew 3 pictures; those beyond 2 are left out."]
    assert notes.usage is not None
    assert usage.items() <= notes.usage.items()


async def test_the_usage_of_what_is_no_picture_counts(liar: FakeLiar, http: HttpClient) -> None:
    liar.says(listed("@@@@", usage={"input_tokens": 5, "output_tokens": 9}))
    notes = collect()
    with pytest.raises(UpstreamProtocolError):
        await anext(OpenAIBackend(http).draw(at(liar), draw()))
    assert notes.usage is not None
    assert notes.usage["output_tokens"] == 9


async def test_a_fault_after_a_picture_leaves_it_to_a_whole_answer_and_ends_a_stream(
    liar: FakeLiar, http: HttpClient
) -> None:
    fault = {"error": {"message": "out of paint", "type": "server_error"}}
    liar.streams(completed(PNG), fault)
    events, notes = await drawn(liar, http, draw(n=2))
    assert (len(events), len(notes.notices)) == (1, 1)
    assert notes.notices[0].startswith("'painter' drew 1 of the 2 pictures that were asked for: ")
    with pytest.raises(UpstreamError):
        await drawn(liar, http, draw(n=2, stream=True))
    liar.streams(completed(PNG, "partial_image"))
    with pytest.raises(StreamBroken):
        await drawn(liar, http, draw())


@pytest.mark.parametrize(
    ("data", "kind", "size"),
    [
        (PNG, "png", "8x6"), (JPEG, "jpeg", "8x6"), (WEBP, "webp", "8x6"), (SVG, "svg", None),
        (LONG_PROFILE, "jpeg", None),
    ],
    ids=["png", "jpeg", "webp", "svg", "profile"],
)  # fmt: skip
async def test_the_format_is_that_of_the_bytes(
    liar: FakeLiar, http: HttpClient, data: str, kind: str, size: str | None
) -> None:
    asked = "png" if kind == "webp" else "webp"
    for document in (listed(data), listed(data, output_format=asked)):
        liar.says(document)
        (event,), notes = await drawn(liar, http, draw(output_format=asked))
        assert (event["output_format"], event.get("size")) == (kind, size)
        if kind != asked:
            assert notes.notices == [f"The picture is a {kind}, and no {asked} as it was asked for."]
            assert notes.dropped == ["output_format"]
        (event,), notes = await drawn(liar, http, draw(output_format=kind))
        assert (event["output_format"], notes.notices, notes.dropped) == (kind, [], [])
        (event,), notes = await drawn(liar, http, draw())
        assert (event["output_format"], notes.notices) == (kind, [])


async def test_a_size_that_is_told_stays(liar: FakeLiar, http: HttpClient) -> None:
    liar.says(listed(PNG, size="1024x1024"))
    (event,), _ = await drawn(liar, http, draw())
    assert event["size"] == "1024x1024"


# ---- Gemini


def gemini(fake: FakeGoogle) -> Upstream:
    return Upstream("g", "google", fake.base_url, "gemini-3-pro-image", api_key="AIza-fake")


async def test_geminis_event_has_what_openais_has(http: HttpClient) -> None:
    async with FakeGoogle() as fake:
        fake.pictures = (PNG,)
        notes = collect()
        backend: Any = GoogleBackend(http)
        (event,) = [one async for one in backend.draw(gemini(fake), draw(quality="high", output_format="jpeg"))]
    told = {name: event[name] for name in ("background", "output_format", "quality", "size")}
    assert told == {"background": "opaque", "output_format": "png", "quality": "auto", "size": "8x6"}
    assert (notes.dropped, len(notes.notices)) == (["output_format"], 1)


async def test_data_of_gemini_that_is_no_picture_is_a_protocol_error(http: HttpClient) -> None:
    async with FakeGoogle() as fake:
        fake.pictures = (b64(b"<html></html>"),)
        backend: Any = GoogleBackend(http)
        with pytest.raises(UpstreamProtocolError):
            await anext(backend.draw(gemini(fake), draw()))


@pytest.mark.parametrize("fault", [Fault(status=429), Fault(status=500), Fault(refuse=True)], ids=repr)
async def test_pictures_of_gemini_that_came_are_given_where_a_later_one_fails(
    http: HttpClient, fault: Fault
) -> None:
    async with FakeGoogle() as fake:
        fake.pictures = (PNG,)
        fake.script(Fault(), fault)
        notes = collect()
        backend: Any = GoogleBackend(http)
        events = [event async for event in backend.draw(gemini(fake), draw(n=2))]
    assert [event["b64_json"] for event in events] == [PNG]
    assert notes.notices[0].startswith("'gemini-3-pro-image' drew 1 of the 2 pictures that were asked for: ")


async def test_an_answer_of_gemini_without_a_picture_is_counted_as_the_text_that_it_is(http: HttpClient) -> None:
    async with FakeGoogle() as fake:
        notes = collect()
        backend: Any = GoogleBackend(http)
        with pytest.raises(AnswerInvalid):
            await anext(backend.draw(gemini(fake), draw()))
    assert notes.usage is not None
    assert notes.usage["input_tokens"] > 0
    assert notes.usage["output_tokens"] == notes.usage["output_tokens_details"]["text_tokens"]


async def test_the_usage_of_a_later_answer_of_gemini_without_a_picture_counts_too(http: HttpClient) -> None:
    async with FakeGoogle() as fake:
        fake.pictures = (PNG,)
        notes = collect()
        backend: Any = GoogleBackend(http)
        events = backend.draw(gemini(fake), draw(n=2))
        event = await anext(events)
        fake.pictures = ()
        assert [one async for one in events] == []
    assert notes.usage is not None
    assert notes.usage["input_tokens"] > event["usage"]["input_tokens"]


@pytest.mark.parametrize(
    "error",
    [
        {"code": "moderation_blocked", "message": "not safe"},
        {"type": "image_generation_user_error", "code": "moderation_blocked", "message": "not safe"},
        {"type": "server_error", "code": "content_policy_violation", "message": "not safe"},
    ],
    ids=["code", "type", "policy"],
)
@pytest.mark.parametrize("within", [True, False], ids=["object", "event"])
async def test_a_picture_that_is_refused_in_the_making_is_the_requests_fault(
    liar: FakeLiar, http: HttpClient, error: dict[str, str], within: bool
) -> None:
    told = {"type": "error", "error": error} if within else {**error, "type": "error"}
    liar.streams(completed(PNG, "partial_image"), told)
    for request in (draw(stream=True, partial_images=1), draw(), edit(stream=True)):
        with pytest.raises(InvalidRequest, match="not safe") as refused:
            await drawn(liar, http, request)
        assert refused.value.code == error["code"]


# ---- addresses


class Shelf(FakeLiar):
    """A server that names its pictures by an address, and has them there."""

    def routes(self) -> list[Route]:
        return [("GET", "/pictures/{name}", self.picture), *super().routes()]

    async def picture(self, request: web.Request, call: Call) -> web.StreamResponse:
        assert call.headers["authorization"] == "Bearer shelf-key"
        assert request.query_string == "t=1"
        return web.Response(body=base64.b64decode(PNG), headers={"content-type": "image/png"})


@pytest.mark.parametrize("wanted", ["url", "b64_json", None])
async def test_a_picture_that_a_server_names_by_an_address_is_fetched_from_it(
    http: HttpClient, wanted: str | None
) -> None:
    async with Shelf() as shelf:
        shelf.says({"data": [{"url": f"{shelf.origin}/pictures/a.png?t=1", "revised_prompt": "x"}]})
        upstream = replace(at(shelf), api_key="shelf-key")
        for request in (draw(response_format=wanted), edit(response_format=wanted)):
            backend = OpenAIBackend(http)
            made: Any = backend.edit if isinstance(request, ImageEditRequest) else backend.draw
            (event,) = [event async for event in made(upstream, request)]
            assert (event["b64_json"], event["revised_prompt"]) == (PNG, "x")
            assert "url" not in event


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.7/a.png", "https://127.0.0.1/a.png", "https://localhost/a.png", "http://example.com/a.png",
     "file:///etc/passwd", "https://[::1]/a.png", "x", "https://"],
)  # fmt: skip
async def test_an_address_that_leads_inside_is_not_fetched_and_not_passed_on(
    liar: FakeLiar, http: HttpClient, url: str
) -> None:
    liar.says({"data": [{"url": url}]})
    with pytest.raises(UpstreamProtocolError, match="cannot be fetched") as refused:
        await drawn(liar, http, draw())
    assert refused.value.may_bill
    assert url == "x" or url not in refused.value.message


async def test_a_data_url_and_an_address_beside_the_bytes_need_no_fetching(
    liar: FakeLiar, http: HttpClient
) -> None:
    liar.says({"data": [{"url": f"data:image/png;base64,{PNG}"}, {"url": "http://10.0.0.7/a", "b64_json": PNG}]})
    events, _ = await drawn(liar, http, draw(n=2))
    assert [(event["b64_json"], "url" in event) for event in events] == [(PNG, False)] * 2
