"""Pictures over HTTP: edits as forms and as JSON, what is refused about the pictures, and addresses of results."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from typing import Any

import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent

from backends.pictures.exif import UPRIGHT, orientation_of
from backends.wire.images import ImageEditRequest, ImageRequest
from backends.wire.pictures import read_head
from catalog.errors import StreamBroken
from server.api.inference.images import PictureEncoder, Pictures
from server.storage.pictures import UNKNOWN, media_type_of
from server.storage.settings import StorageSettings
from tests.fakes.openai_media import png
from tests.fakes.pictures import encoded, quarters
from tests.server.api.test_chat import events
from tests.server.conftest import Gateway, Start
from tests.server.edge.test_gate import BEARER, KEYS
from tests.server.fakes import picture
from tests.server.test_bad_input import error

EDITS, VARIATIONS, DRAWINGS = "/v1/images/edits", "/v1/images/variations", "/v1/images/generations"
PICTURE_8X6 = encoded(quarters(8, 6))


def png_head(width: int, height: int, colour: int = 6) -> bytes:
    """A PNG of this size, whose pixels are missing."""
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I4s", 13, b"IHDR")
        + head
        + struct.pack(">I", zlib.crc32(b"IHDR" + head))
        + struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
    )


async def edit(gateway: Gateway, path: str = EDITS, *, files: Any = None, **fields: Any) -> Any:
    files = [("image", ("a.png", PICTURE_8X6))] if files is None else files
    data = {"model": "p", **({} if path == VARIATIONS else {"prompt": "a hat"}), **fields}
    return await gateway.client.post(path, data=data, files=files)


def asked(gateway: Gateway) -> ImageEditRequest:
    request = gateway.backend.requests[-1]
    assert isinstance(request, ImageEditRequest)
    return request


async def test_the_fields_of_a_form_have_their_types(gateway: Gateway) -> None:
    fields = {"n": "2", "size": "64x64", "seed": "7", "strength": "0.5", "quality": "low", "svg[model]": "m"}
    answer = await edit(gateway, input_fidelity="high", output_format="webp", **fields)
    assert answer.status_code == 200, answer.text
    request = asked(gateway)
    assert (request.n, request.size, request.seed, request.strength) == (2, "64x64", 7, 0.5)
    assert (request.input_fidelity, request.output_format, request.image) == ("high", "webp", (PICTURE_8X6,))
    assert request.model_extra == {"svg": {"model": "m"}}
    body = answer.json()
    assert [one["b64_json"] for one in body["data"]] == [picture(0), picture(1)]
    assert body["usage"] == {"total_tokens": 4}


@pytest.mark.parametrize("name", ["image", "image[]", "image[0]"])
async def test_one_or_many_pictures_come_by_any_name_that_clients_use(gateway: Gateway, name: str) -> None:
    other = encoded(quarters(4, 4), "jpeg")
    await edit(gateway, files=[(name, ("a.png", PICTURE_8X6)), (name, ("b.jpg", other))])
    assert asked(gateway).image == (PICTURE_8X6, other)


async def test_a_mask_of_the_pictures_size_comes_along(gateway: Gateway) -> None:
    mask = png_head(8, 6)
    files = [("image", ("a.png", PICTURE_8X6)), ("mask", ("m.png", mask))]
    assert (await edit(gateway, files=files)).status_code == 200
    assert asked(gateway).mask == mask


async def test_a_masks_size_is_that_of_the_upright_picture(gateway: Gateway) -> None:
    lying = encoded(quarters(8, 6), "jpeg", orientation=6)
    files = [("image", ("a.jpg", lying)), ("mask", ("m.png", png_head(6, 8)))]
    assert (await edit(gateway, files=files)).status_code == 200
    (sent,) = asked(gateway).image
    found = read_head(sent)
    assert found is not None
    assert (found.width, found.height, orientation_of(sent, found.kind)) == (6, 8, UPRIGHT)


async def test_a_photograph_within_json_is_turned_upright_too(gateway: Gateway) -> None:
    url = f"data:image/jpeg;base64,{base64.b64encode(encoded(quarters(8, 6), 'jpeg', orientation=6)).decode()}"
    body = {"model": "p", "prompt": "a hat", "images": [{"image_url": url}]}
    assert (await gateway.client.post(EDITS, json=body)).status_code == 200
    found = read_head(asked(gateway).image[0])
    assert found is not None
    assert (found.width, found.height) == (6, 8)


async def test_a_prompt_of_a_variation_is_named_as_left_out(gateway: Gateway) -> None:
    await edit(gateway, VARIATIONS, prompt="in blue")
    await edit(gateway, VARIATIONS)
    await edit(gateway)
    assert gateway.dispatcher.left_out == [("prompt",), (), ()]


async def test_a_variation_has_no_prompt(gateway: Gateway) -> None:
    assert (await edit(gateway, VARIATIONS)).status_code == 200
    assert (asked(gateway).variation, asked(gateway).prompt) == (True, "")


async def test_an_edit_without_a_prompt_is_refused(gateway: Gateway) -> None:
    answer = await gateway.client.post(EDITS, data={"model": "p"}, files={"image": ("a.png", PICTURE_8X6)})
    assert error(answer, 400, "invalid_request")["param"] == "prompt"


async def test_a_streamed_edit_has_events_of_edits(gateway: Gateway) -> None:
    answer = await edit(gateway, stream="true")
    assert [item["type"] for item in events(answer.text)] == ["image_edit.completed"]


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
ZIP = b"PK\x03\x04" + bytes(60)
BOMB = png_head(31_623, 31_623)
"""The head of a PNG of a thousand million pixels."""


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (SVG, 400, "undecodable_media"),
        (ZIP, 400, "undecodable_media"),
        (encoded(quarters(8, 6), "bmp"), 400, "undecodable_media"),
        (encoded(quarters(8, 6))[:60], 400, "undecodable_media"),
        (encoded(quarters(8, 6), "webp")[:-9], 400, "undecodable_media"),
        (BOMB, 413, "payload_too_large"),
        (png_head(20_001, 1), 413, "payload_too_large"),
    ],
    ids=["svg", "zip", "bmp", "cut off", "cut off webp", "bomb", "long"],
)
@pytest.mark.parametrize("field", ["image", "mask"])
async def test_what_is_no_usable_picture_is_refused_before_a_model_sees_it(
    gateway: Gateway, field: str, data: bytes, status: int, code: str
) -> None:
    files = [("image", ("a.png", PICTURE_8X6))] if field == "mask" else []
    answer = await edit(gateway, files=[*files, (field, ("x.png", data))])
    assert error(answer, status, code)["param"] == field
    assert not gateway.backend.requests


async def test_pictures_beyond_the_most_are_told_by_their_number(gateway: Gateway) -> None:
    answer = await edit(gateway, files=[("image[]", ("a.png", PICTURE_8X6))] * 17)
    told = error(answer, 400, "invalid_request")
    assert (told["param"], told["message"]) == ("image", "'image': it must have at most 16 items (it has 17).")


async def test_pictures_have_a_bound_in_all(gateway: Gateway) -> None:
    large = png_head(7000, 7000)
    answer = await edit(gateway, files=[("image[]", ("a.png", large))] * 5)
    assert "200000000" in error(answer, 413, "payload_too_large")["message"]


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (png_head(8, 7), "8 x 7"),
        (png_head(8, 6, colour=2), "transparency"),
        (encoded(quarters(8, 6), "jpeg"), "PNG"),
    ],
    ids=["size", "opaque", "jpeg"],
)
async def test_a_mask_that_fits_no_picture_is_refused(gateway: Gateway, mask: bytes, says: str) -> None:
    answer = await edit(gateway, files=[("image", ("a.png", PICTURE_8X6)), ("mask", ("m.png", mask))])
    told = error(answer, 400, "invalid_request")
    assert (told["param"], says in told["message"]) == ("mask", True)


@pytest.mark.parametrize(
    ("files", "fields", "param"),
    [
        ([("mask", ("m.png", png_head(8, 6)))], {}, "image"),
        ([("image", ("a.png", b""))], {}, "image"),
        (None, {"n": "11"}, "n"),
        (None, {"n": "two"}, "n"),
        (None, {"strength": "0"}, "strength"),
        (None, {"stream": "maybe"}, "stream"),
        (None, {"partial_images": "1"}, "partial_images"),
        (None, {"stream": "true", "response_format": "url"}, "response_format"),
        (None, {"background": "transparent", "output_format": "jpeg"}, "background"),
        (None, {"output_compression": "50"}, "output_compression"),
        (None, {"seed": str(2**63 - 1), "n": "2"}, "seed"),
        (None, {"output_compression": "50", "output_format": "png"}, "output_compression"),
        (None, {"image": "data:image/png;base64,AAAA"}, "image"),
        ([("image", ("a.png", PICTURE_8X6)), ("other", ("b.png", PICTURE_8X6))], {}, "other"),
        ([("image[]", ("a.png", PICTURE_8X6))] * 17, {}, "image"),
    ],
)
async def test_a_wrong_form_is_refused_by_its_field(
    gateway: Gateway, files: Any, fields: dict[str, str], param: str
) -> None:
    answer = await edit(gateway, files=files, **fields)
    assert error(answer, 400, "invalid_request")["param"] == param


@pytest.mark.parametrize(
    "fields",
    [
        {"svg[model]": "m", "svg": "text"},
        {"svg": "text", "svg[model]": "m"},
        {"svg[]": "a", "svg[model]": "m"},
        {"svg[a][b][c]": "deep"},
        {"svg[a][b][c][d]": "too deep"},
        {"a" * 65: "long"},
        {"né[": "odd"},
        {"svg[__class__]": "x"},
        {"model[]": "p"},
        {"n": "9" * 5000},
        {"seed": "1e5"},
        {"strength": "nan"},
        {"guidance_scale": "inf"},
        {"n": "\u0661"},
        {"variation": "true"},
        {"routing": "x"},
        {"routing[mode]": "none-such"},
        {"api_key": "x"},
    ],
    ids=str,
)
async def test_an_odd_form_is_answered_or_refused_and_never_a_fault(
    gateway: Gateway, fields: dict[str, str]
) -> None:
    answer = await edit(gateway, **fields)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert answer.json()["error"]["message"]


async def test_a_form_above_the_limit_is_refused(start: Start) -> None:
    async with start(server={"limits": {"image_bytes": 2000}}) as gateway:
        answer = await edit(gateway, files=[("image", ("a.png", PICTURE_8X6 + bytes(2000)))])
        error(answer, 413, "payload_too_large")


# ---- answers


@pytest.mark.parametrize("told", [{}, {"usage": None, "quality": None}, {"usage": {"input_tokens": 9}}])
async def test_streamed_events_have_all_that_openais_types_require(told: dict[str, Any]) -> None:
    body = ImageRequest.model_validate({"model": "p", "prompt": "a", "quality": "low", "size": "64x64"})
    encoder = PictureEncoder(body, "image_generation.completed")
    part: Any = {"type": "image_generation.partial_image", "b64_json": "AAAA", "partial_image_index": 0}
    last: Any = {"type": "image_generation.completed", "b64_json": "AAAA", "output_format": "jpeg", **told}
    first, done = events((encoder.encode(part) + encoder.encode(last)).decode())
    partial = ImageGenPartialImageEvent.model_validate(first, strict=True)
    completed = ImageGenCompletedEvent.model_validate(done, strict=True)
    assert (partial.output_format, partial.size, partial.quality, partial.background) == (
        "png", "64x64", "low", "auto",
    )  # fmt: skip
    assert completed.output_format == "jpeg"
    read = 9 if told.get("usage") else 0
    assert (completed.usage.input_tokens, completed.usage.input_tokens_details.text_tokens) == (read, read)
    assert encoder.finish() == b""


async def test_the_pictures_that_came_are_given_where_more_were_asked_for() -> None:
    asked = ImageRequest.model_validate({"model": "p", "prompt": "a", "n": 3})
    pictures = Pictures(asked)
    with pytest.raises(StreamBroken):
        pictures.result()
    pictures.add({"type": "image_generation.completed", "b64_json": "AAAA"})
    assert pictures.result()["data"] == [{"b64_json": "AAAA"}]


# ---- JSON


def as_url(data: bytes, kind: str = "png") -> dict[str, str]:
    return {"image_url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}


async def test_an_edit_may_be_json_with_data_urls_and_files_of_the_caller(gateway: Gateway) -> None:
    upload = await gateway.client.post(
        "/v1/files", data={"purpose": "vision"}, files={"file": ("a.png", PICTURE_8X6)}
    )
    body = {"model": "p", "prompt": "a hat", "images": [{"file_id": upload.json()["id"]}], "n": 1}
    mask = png_head(8, 6)
    answer = await gateway.client.post(EDITS, json={**body, "mask": as_url(mask)})
    assert answer.status_code == 200, answer.text
    assert (asked(gateway).image, asked(gateway).mask, asked(gateway).n) == ((PICTURE_8X6,), mask, 1)


@pytest.mark.parametrize(
    ("given", "status", "code", "param"),
    [
        ({"image_url": "https://example.com/a.png"}, 400, "invalid_request", "images[0].image_url"),
        ({"image_url": "data:image/png;base64,***"}, 400, "undecodable_media", "images[0].image_url"),
        ({"file_id": "file-none"}, 404, "not_found", "images[0].file_id"),
        ({}, 400, "invalid_request", "images[0]"),
        (as_url(ZIP), 400, "undecodable_media", "image"),
    ],
)
async def test_a_picture_that_json_does_not_hold_is_refused(
    gateway: Gateway, given: dict[str, str], status: int, code: str, param: str
) -> None:
    answer = await gateway.client.post(EDITS, json={"model": "p", "prompt": "a hat", "images": [given]})
    assert error(answer, status, code)["param"] == param


# ---- addresses


def bounded(gateway: Gateway, **settings: Any) -> None:
    """Use other bounds for what is kept."""
    runtime = gateway.services.runtime
    assert runtime is not None
    runtime.storage.configure(StorageSettings(**settings))


async def drawn_url(gateway: Gateway, **headers: str) -> str:
    body = {"model": "p", "prompt": "a bird", "response_format": "url"}
    answer = await gateway.client.post(DRAWINGS, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    (drawn,) = answer.json()["data"]
    assert "b64_json" not in drawn
    return str(drawn["url"])


async def test_the_address_of_a_picture_needs_no_key_and_cannot_be_guessed(start: Start) -> None:
    async with start(**KEYS) as gateway:
        first, second = await drawn_url(gateway, **BEARER), await drawn_url(gateway, **BEARER)
        assert first.startswith("http://localhost/v1/images/files/img_")
        assert first != second
        assert len(first.rpartition("img_")[2]) >= 43
        answer = await gateway.client.get(first)
        assert (answer.status_code, answer.content) == (200, b"pic0")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
        error(await gateway.client.get("/v1/images/files/img_other"), 404, "not_found")
        assert (await gateway.client.get("/v1/models")).status_code == 401


async def test_the_address_of_a_picture_expires(gateway: Gateway) -> None:
    bounded(gateway, image_url_seconds=0.000001)
    error(await gateway.client.get(await drawn_url(gateway)), 404, "not_found")


async def test_pictures_with_addresses_take_the_room_of_their_keys_files(gateway: Gateway) -> None:
    bounded(gateway, file_bytes_per_key=5)
    await drawn_url(gateway)
    await drawn_url(gateway)
    body = {"model": "p", "prompt": "a bird", "response_format": "url"}
    error(await gateway.client.post(DRAWINGS, json=body), 429, "storage_full")
    assert (await gateway.client.post(DRAWINGS, json={**body, "response_format": "b64_json"})).status_code == 200


async def test_a_picture_is_served_by_its_own_kind(gateway: Gateway) -> None:
    assert media_type_of(png()) == "image/png"
    assert media_type_of(encoded(quarters(4, 4), "jpeg")) == "image/jpeg"
    assert media_type_of(encoded(quarters(4, 4), "webp")) == "image/webp"
    assert media_type_of(b"<html>") == UNKNOWN
    answer = await gateway.client.get(await drawn_url(gateway))
    assert answer.headers["content-type"] == UNKNOWN


async def test_a_picture_that_a_client_has_is_not_sent_again(gateway: Gateway) -> None:
    url = await drawn_url(gateway)
    first = await gateway.client.get(url)
    again = await gateway.client.get(url, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    other = await gateway.client.get(url, headers={"if-none-match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


async def test_the_events_of_pictures_are_named_by_their_type_as_openais_are(gateway: Gateway) -> None:
    body = {"model": "p", "prompt": "a bird", "stream": True}
    answer = await gateway.client.post(DRAWINGS, json=body)
    for name, told in zip(
        re.findall(r"^event: (.+)$", answer.text, re.MULTILINE), events(answer.text), strict=False
    ):
        assert name == told["type"]
    assert "event: image_generation.completed" in answer.text


async def test_an_edit_of_another_media_type_is_told_both_that_it_may_have(gateway: Gateway) -> None:
    answer = await gateway.client.post(EDITS, content=b"x", headers={"content-type": "text/plain"})
    assert "multipart/form-data or application/json" in error(answer, 415, "unsupported_media_type")["message"]
