"""Pictures are looked at before a model is chosen: the same bounds hold for every model."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from backends.pictures.looking import look_at
from backends.wire.pictures import MAX_BYTES, is_cut_off
from catalog.errors import PayloadTooLarge, RoundhouseError, UndecodableMedia
from tests.fakes.openai import FakeOpenAI
from tests.fakes.pictures import encoded, quarters
from tests.security.conftest import OpenSite, assert_error
from tests.security.test_media_bombs import PICTURES, SVG, of_pictures, png
from tests.security.test_private_addresses import asked, with_an_eye

GOOD = encoded(quarters(8, 8))
HEIC = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic") + bytes(64)


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


BAD: dict[str, tuple[Any, int]] = {
    "a bomb": (data_url(png(31_623, 31_623)), 413),
    "22 MiB": (data_url(GOOD + bytes(22 << 20)), 413),
    "a zip": (data_url(of_pictures()), 400),
    "a program": (data_url(b"MZ" + bytes(200)), 400),
    "60 bytes of a PNG": (data_url(GOOD[:60]), 400),
    "an SVG": (data_url(SVG, "image/svg+xml"), 400),
    "a page": (data_url(b"<html></html>", "text/html"), 400),
    "a zip that says so": (data_url(of_pictures(), "application/zip"), 400),
    "nothing": ("data:image/png;base64,", 400),
    "no base64": ("data:image/png;base64,@@@@", 400),
    "base64 with an error at its end": (data_url(GOOD + bytes(3 << 20)) + "!", 400),
    "no type": ("data:,", 400),
    "no URL": ("", 400),
    "null": (None, 400),
    "a number": (5, 400),
}
PLACES = ("picture", "ground", "vectors", "moderation", "response", "message")


@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_picture_within_the_bounds_goes_to_no_provider(
    site: OpenSite, provider: FakeOpenAI, name: str
) -> None:
    url, status = BAD[name]
    async with site(model=with_an_eye(provider)) as running:
        for where in PLACES if isinstance(url, str) else ("picture", "ground", "vectors", "moderation"):
            path, body = asked(where, url)
            if where == "message" and isinstance(url, str) and url.startswith("data:image/png;base64,"):
                source = {"type": "base64", "media_type": "image/png", "data": url.partition(",")[2]}
                body["messages"][0]["content"][0]["source"] = source
            refused = await running.client.post(path, json=body)
            # Some doors bound the text itself: their refusal names the field.
            statuses = {status} if where in ("picture", "response") else {status, 400}
            assert refused.status_code in statuses, (where, refused.text)
            assert refused.json()["error"]["message"]
    assert provider.calls == []


FIELDS = {
    "picture": "messages", "ground": "image", "vectors": "input", "moderation": "input", "response": "input",
    "message": "messages",
}  # fmt: skip


@pytest.mark.parametrize("where", PLACES)
async def test_a_refusal_names_the_field_of_the_requests_own_api(
    site: OpenSite, provider: FakeOpenAI, where: str
) -> None:
    async with site(model=with_an_eye(provider)) as running:
        path, body = asked(where, data_url(b"MZ" + bytes(200)))
        if where == "message":
            data = base64.b64encode(b"MZ" + bytes(200)).decode()
            source = {"type": "base64", "media_type": "image/png", "data": data}
            body["messages"][0]["content"][0]["source"] = source
        refused = await running.client.post(path, json=body)
        assert (refused.status_code, refused.json()["error"].get("param", FIELDS[where])) == (400, FIELDS[where])


@pytest.mark.parametrize("where", ["response", "message"])
async def test_the_tokens_of_what_is_no_picture_are_not_counted(
    site: OpenSite, provider: FakeOpenAI, where: str
) -> None:
    counts = {"response": "/v1/responses/input_tokens", "message": "/v1/messages/count_tokens"}
    async with site(model=with_an_eye(provider)) as running:
        for data, status in ((b"MZ" + bytes(200), 400), (GOOD, 200)):
            _, body = asked(where, data_url(data))
            if where == "message":
                source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(data).decode()}
                body["messages"][0]["content"][0]["source"] = source
            counted = await running.client.post(counts[where], json=body)
            assert counted.status_code == status, counted.text


async def test_65_pictures_and_200_million_pixels_are_too_many_for_a_provider(
    site: OpenSite, provider: FakeOpenAI
) -> None:
    part = {"type": "image_url", "image_url": {"url": data_url(GOOD)}}
    large = {"type": "image_url", "image_url": {"url": data_url(png(7000, 7000))}}
    async with site(model=with_an_eye(provider)) as running:
        for parts in ([part] * 65, [large] * 5):
            chat = {"model": "far", "messages": [{"role": "user", "content": parts}]}
            judged = {"model": "warden", "input": parts}
            embedded = {"model": "eye", "input": parts}
            for path, body in (
                ("/v1/chat/completions", chat),
                ("/v1/moderations", judged),
                ("/v1/embeddings", embedded),
            ):
                assert_error(await running.client.post(path, json=body), 413, "payload_too_large")
    assert provider.calls == []


async def test_a_good_picture_goes_to_a_provider_as_it_came(site: OpenSite, provider: FakeOpenAI) -> None:
    async with site() as running:
        for url in (data_url(GOOD), data_url(HEIC, "image/heic"), data_url(b"%PDF-1.7\n", "application/pdf")):
            path, body = asked("picture", url)
            answer = await running.client.post(path, json=body)
            assert answer.status_code == 200, answer.text
            assert provider.calls[-1].body["messages"][0]["content"][0]["image_url"] == {"url": url}


@pytest.mark.parametrize("name", PICTURES)
async def test_every_bomb_is_refused_by_its_first_bytes(name: str) -> None:
    make, (status, _) = PICTURES[name]
    with pytest.raises(RoundhouseError) as refused:
        await look_at([data_url(make())], "messages")
    assert (refused.value.status, refused.value.param) == (status, "messages")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "tiff"])
async def test_pictures_of_all_kinds_pass_whole_and_those_that_tell_their_end_do_not_when_cut(kind: str) -> None:
    data = encoded(quarters(64, 48), kind)
    await look_at([data_url(data)], "messages")
    await look_at([data_url(data + bytes(100_000))], "messages")
    if kind in ("png", "webp"):
        assert is_cut_off(kind, data[:-20])
        with pytest.raises(UndecodableMedia, match="cut off"):
            await look_at([data_url(data[:-20])], "messages")
    if kind == "jpeg":
        with pytest.raises(UndecodableMedia):
            await look_at([data_url(data[: data.index(b"\xff\xda")])], "messages")
        await look_at([data_url(data[:-2])], "messages")  # without an end, as most decoders take it


async def test_a_size_far_from_the_beginning_is_found() -> None:
    data = encoded(quarters(64, 48), "jpeg")
    notes = b"".join(b"\xff\xee\xff\xff" + bytes(65_533) for _ in range(5))
    await look_at([data_url(data[:2] + notes + data[2:])], "messages")
    vast = b"\xff\xd8" + notes + b"\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(9)
    with pytest.raises(PayloadTooLarge, match="65535"):
        await look_at([data_url(vast)], "messages")


@pytest.mark.parametrize("extra", [0, 1, 2])
async def test_the_bound_of_bytes_is_exact(extra: int) -> None:
    whole = GOOD + bytes(MAX_BYTES - len(GOOD) - extra)
    await look_at([data_url(whole)], "messages")
    with pytest.raises(PayloadTooLarge, match="20 MiB"):
        await look_at([data_url(whole + bytes(6))], "messages")


@pytest.mark.parametrize("size", range((1 << 20) - 4, (1 << 20) + 4))
async def test_base64_is_read_across_slices_with_white_space_or_without_padding(size: int) -> None:
    data = GOOD + bytes(size * 3 // 4 - len(GOOD))
    plain = data_url(data)
    head, _, text = plain.partition(",")
    wrapped = "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    for url in (plain, plain.rstrip("="), f"{head},{wrapped}\n"):
        await look_at([url], "messages")
