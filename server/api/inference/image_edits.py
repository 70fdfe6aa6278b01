"""POST /v1/images/edits and /v1/images/variations: pictures that are changed.

The pictures come as files of a multipart form, or, for edits, within JSON. Their kinds and sizes are read from
their first bytes; only the process of a model decodes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.responses import Response

from backends.pictures.exif import orientation_of
from backends.pictures.media import MAX_PIXELS_IN_ALL
from backends.wire.images import ImageEditBody, ImageEditRequest, ImageReference
from backends.wire.images.answers import ImageEvent, ImageList
from backends.wire.images.forms import FILES, MOST_FILES, fields_of
from backends.wire.media import decoded, is_data_url, read_data_url
from backends.wire.pictures import Picture, checked_picture, has_transparency, refuse_cut_off
from catalog.errors import InvalidRequest, NotFound, PayloadTooLarge, RateLimited, UndecodableMedia
from server.api.inference.images import answer_pictures
from server.callers import Caller
from server.edge.bodies import read_form, read_json
from server.edge.callers import caller_of, origin_of, with_stand_in
from server.edge.contracts import Contract, route
from server.edge.json_body import as_model, from_validation
from server.edge.services import runtime_of, services_of
from server.jobs import image_edit_job
from server.runtime import Runtime
from server.storage.files import FILE

router = APIRouter(tags=["images"])
EDITED = "image_edit.completed"
MOST_BYTES = 50 << 20
"""Bytes of one picture, as at OpenAI."""
_KINDS = ("png", "jpeg", "webp")
_TRANSPOSED = 5
"""The first Exif orientation whose picture lies on its side."""

CHANGES = Contract(
    reads=ImageEditRequest,
    form=True,
    own_reading=True,
    answers=ImageList,
    streams=ImageEvent,
    calls_model=True,
    raises=(RateLimited,),
)
"""The contract of variations, and of edits, which may be JSON."""


@route(router, "POST", "/v1/images/edits", replace(CHANGES, json_too=ImageEditBody))
async def create_image_edit(request: Request) -> Response:
    """Change pictures by a prompt; with a mask, only where it is transparent."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        body = await edit_of(await read_json(request, ImageEditBody), runtime_of(request), caller_of(request))
    else:
        body = await _from_form(request, variation=False)
    return await _changed(request, body)


@route(router, "POST", "/v1/images/variations", CHANGES)
async def create_image_variation(request: Request) -> Response:
    """Draw variations of a picture."""
    return await _changed(request, await _from_form(request, variation=True))


async def _changed(request: Request, body: ImageEditRequest) -> Response:
    body = with_stand_in(request, body)
    check_pictures(body)
    body = await _upright(body, runtime_of(request))
    return await answer_pictures(request, image_edit_job(body, origin_of(request)), body, EDITED)


async def edit_of(body: ImageEditBody, runtime: Runtime, caller: Caller) -> ImageEditRequest:
    """The edit that a JSON body asks for, with the bytes of its pictures. Raises InvalidRequest, NotFound."""
    fields = body.model_dump(exclude_unset=True, exclude={"images", "mask", "markup"})
    fields["image"] = tuple(
        [await _bytes(one, f"images[{at}]", runtime, caller) for at, one in enumerate(body.images)]
    )
    for name in ("mask", "markup"):
        if (reference := getattr(body, name)) is not None:
            fields[name] = await _bytes(reference, name, runtime, caller)
    edit = as_model(ImageEditRequest, fields)
    check_pictures(edit)
    return await _upright(edit, runtime)


async def _upright(edit: ImageEditRequest, runtime: Runtime) -> ImageEditRequest:
    """The edit with its photographs upright, as its mask is: a server may not look at their Exif data.

    Raises UndecodableMedia.
    """
    try:
        turned = [await runtime.redrawer.upright(data) for data in edit.image]
    except UndecodableMedia as error:
        error.param = "image"
        raise
    if not any(turned):
        return edit
    images = tuple(new or old for new, old in zip(turned, edit.image, strict=True))
    return edit.model_copy(update={"image": images})


async def _bytes(reference: ImageReference, where: str, runtime: Runtime, caller: Caller) -> bytes:
    if (reference.image_url is None) == (reference.file_id is None):
        raise InvalidRequest("A picture has either an 'image_url' or a 'file_id'.", param=where)
    if reference.file_id is not None:
        record = await runtime.storage.found(FILE, reference.file_id, caller, param=f"{where}.file_id")
        if record.body["bytes"] > MOST_BYTES:
            raise _too_large(where)
        try:
            return await asyncio.to_thread(runtime.files.path(record.id).read_bytes)
        except FileNotFoundError:
            raise NotFound("The content of the file is gone.", param=f"{where}.file_id") from None
    url = reference.image_url or ""
    if not is_data_url(url):
        raise InvalidRequest(
            "Pictures to change are not fetched by address. Send a data: URL, a file_id, or a multipart form.",
            param=f"{where}.image_url",
        )
    try:
        return await asyncio.to_thread(decoded, read_data_url(url)[1])
    except UndecodableMedia as error:
        raise UndecodableMedia(error.message, param=f"{where}.image_url") from None


async def _from_form(request: Request, *, variation: bool) -> ImageEditRequest:
    most = services_of(request).settings.server.limits.image_bytes
    async with read_form(request, limit=most, files=MOST_FILES, or_json=not variation) as form:
        parts = [(name, await _part(value)) for name, value in form.multi_items()]
    fields = fields_of(parts)
    try:
        return ImageEditRequest.model_validate({**fields, "variation": variation})
    except ValidationError as error:
        sent = {**fields, **dict.fromkeys(fields.keys() & FILES, "a file")}
        raise from_validation(error, {**sent, "image": ["a file"] * len(fields["image"])}) from None


async def _part(value: UploadFile | str) -> bytes | str:
    return value if isinstance(value, str) else await value.read()


def check_pictures(body: ImageEditRequest) -> None:
    """Look at the heads of the pictures.

    Raises UndecodableMedia for data that is no PNG, JPEG or WebP, PayloadTooLarge for too many bytes or pixels,
    and InvalidRequest for a mask that has no transparency or another size than the first picture.
    """
    sizes = [_checked(data, "image") for data in body.image]
    if sum(size.width * size.height for size in sizes) > MAX_PIXELS_IN_ALL:
        raise PayloadTooLarge(f"The pictures have at most {MAX_PIXELS_IN_ALL} pixels in all.", param="image")
    for name, data in _overlays(body).items():
        picture = _checked(data, name)
        if picture.kind != "png" or not has_transparency(data):
            raise InvalidRequest(
                f"The {name} must be a PNG with transparency; a mask is transparent where the picture changes.",
                param=name,
            )
        if (picture.width, picture.height) != (sizes[0].width, sizes[0].height):
            raise InvalidRequest(
                f"The {name} has {picture.width} x {picture.height} pixels, and the picture has "
                f"{sizes[0].width} x {sizes[0].height}. Both need the same size.",
                param=name,
            )
    if body.mask is not None and body.markup is not None:
        raise InvalidRequest("An edit has a mask or a markup, not both.", param="markup")


def _overlays(body: ImageEditRequest) -> Mapping[str, bytes]:
    return {name: data for name in ("mask", "markup") if (data := getattr(body, name)) is not None}


def _checked(data: bytes, name: str) -> Picture:
    """The kind and the upright size of a picture."""
    picture = checked_picture(data, name, MOST_BYTES)
    if picture.kind not in _KINDS:
        raise UndecodableMedia(f"A picture to change is a PNG, JPEG or WebP, not {picture.kind}.", param=name)
    refuse_cut_off(picture.kind, data, name)
    if orientation_of(data, picture.kind) >= _TRANSPOSED:
        return Picture(picture.kind, picture.height, picture.width)
    return picture


def _too_large(where: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"A picture is over the limit of {MOST_BYTES // 2**20} MiB.", param=where)
