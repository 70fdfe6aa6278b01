"""Reads the bodies of requests for videos: JSON, or a form as OpenAI's SDKs send it, and the pictures in them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from backends.fetch import Fetcher
from backends.wire.common import MAX_TEXT, Finite, ModelName, Seed, WireModel
from backends.wire.media import decoded, is_data_url, read_data_url
from backends.wire.pictures import MAX_BYTES, checked_picture, refuse_cut_off
from backends.wire.video.request import (
    INTERNAL,
    MAX_SOURCE,
    VideoLength,
    VideoPrompt,
    VideoRequest,
    VideoSize,
)
from catalog.errors import InvalidRequest, NotFound, PayloadTooLarge, RoundhouseError, UndecodableMedia
from server.edge.bodies import read_form, read_json
from server.edge.callers import caller_of
from server.edge.json_body import as_model, from_validation
from server.edge.services import runtime_of, services_of
from server.storage.files import FILE

M = TypeVar("M", bound=WireModel)
FORM_OVERHEAD = 1 << 20
"""Bytes of a form beside its file."""
READ = frozenset({"png", "jpeg", "webp"})
"""Kinds of pictures that every maker of videos takes, as OpenAI does."""
_MEMBER = re.compile(r"(\w{1,64})\[(\w{1,64})\]")
"""A member of an object, as OpenAI's SDKs write it in a form."""
_TRUE_OR_FALSE: Mapping[str, bool] = {"true": True, "1": True, "false": False, "0": False}


class PictureReference(BaseModel):
    """A picture by its address, which may be a data URL, or by the id of a file."""

    image_url: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] | None = None
    file_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class VideoReference(BaseModel):
    """A finished video by its id."""

    id: Annotated[str, Field(min_length=1, max_length=128)]


class VideoForm(VideoRequest):
    """A video to make. ``input_reference`` is its first frame: a file, or an object that names one."""

    input_reference: PictureReference | None = None


class RemixBody(WireModel):
    """A video to make anew by another prompt. ``strength``, ``seed``, ``steps`` and a ``size`` are ours."""

    prompt: VideoPrompt
    model: ModelName | None = None
    seconds: VideoLength | None = None
    size: VideoSize | None = None
    strength: Annotated[Finite, Field(ge=0, le=1)] | None = None
    seed: Seed | None = None
    steps: Annotated[int, Field(ge=1, le=500)] | None = None


class EditForm(RemixBody):
    """A video to change by a prompt: a file, or the ``id`` of a finished one, whose model then changes it.

    ``model``, ``strength`` (how much is made anew, from 0 to 1), ``seed``, ``steps`` and a ``size`` are ours.
    """

    video: VideoReference | None = None


class ExtendForm(EditForm):
    """A video to go on from the end of another, by ``seconds``."""

    seconds: VideoLength


async def read_video_form(request: Request) -> VideoRequest:
    """The request of ``POST /v1/videos``, with its first frame. Raises InvalidRequest and its kinds."""
    form, upload = await _read(request, VideoForm, "input_reference", MAX_BYTES)
    picture, param = upload, "input_reference"
    if picture is None and form.input_reference is not None:
        picture, param = await _referred(request, form.input_reference)
    fields = {name: getattr(form, name) for name in form.model_fields_set - {"input_reference"}}
    fields |= form.model_extra or {}
    if picture is not None:
        fields |= {"image": picture, "image_type": f"image/{_checked(picture, param)}"}
    return as_model(VideoRequest, fields)


async def read_edit(request: Request, kind: type[M]) -> tuple[M, bytes | None]:
    """A form about another video, and the bytes of that if it is a file. Raises InvalidRequest and its kinds."""
    form, upload = await _read(request, kind, "video", MAX_SOURCE)
    if upload is not None and upload[4:8] != b"ftyp":
        raise UndecodableMedia("'video' must be an MP4.", param="video")
    if (upload is None) == (getattr(form, "video", None) is None):
        raise InvalidRequest("Give 'video': a file, or an object with the 'id' of a finished one.", param="video")
    return form, upload


# ---- parts


async def _read(request: Request, kind: type[M], file: str, most: int) -> tuple[M, bytes | None]:
    """A body of either form as ``kind``, and the bytes of its file."""
    if "json" in request.headers.get("content-type", "").partition(";")[0].lower():
        body, upload = await read_json(request, kind), None
    else:
        async with read_form(request, limit=most + FORM_OVERHEAD, or_json=True) as form:
            body, upload = _parsed(form, kind, file), await _uploaded(form, file, most)
    refuse_internal(body)
    if upload is not None and getattr(body, file, None) is not None:
        raise InvalidRequest(f"'{file}' is a file or an object, not both.", param=file)
    return body, upload


def refuse_internal(body: WireModel) -> None:
    """Raises InvalidRequest for a field that no caller sends."""
    given = body.model_fields_set | set(body.model_extra or ())
    if own := sorted(INTERNAL & given):
        raise InvalidRequest(f"A request cannot set '{own[0]}'.", param=own[0])


async def _uploaded(form: FormData, name: str, most: int) -> bytes | None:
    for each, value in form.multi_items():
        if isinstance(value, UploadFile) and each != name:
            raise InvalidRequest(f"The only file is '{name}'.", param=each[:64])
    upload = form.get(name)
    if not isinstance(upload, UploadFile):
        return None
    if (upload.size or 0) > most:
        raise PayloadTooLarge(f"'{name}' is over the limit of {most // 2**20} MiB.", param=name)
    data = await upload.read()
    if not data:
        raise InvalidRequest(f"'{name}' is empty.", param=name)
    return data


def _parsed(form: FormData, kind: type[M], file: str) -> M:
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            continue
        if name in fields:
            raise InvalidRequest(f"The form has the field '{name[:64]}' twice.", param=name[:64])
        member = _MEMBER.fullmatch(name)
        if member is not None:
            inside = fields.setdefault(member[1], {})
            if isinstance(inside, dict):
                inside[member[2]] = _plain(value) if member[1] == "routing" else value
        elif name in (file, "routing"):
            fields[name] = _object(value, name)
        else:
            fields[name] = _typed(name, value, kind)
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, fields) from None


def _object(text: str, name: str) -> Any:
    """The JSON object that a form's field holds. Raises InvalidRequest."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidRequest(f"'{name}' must be a file or a JSON object.", param=name) from None


def _typed(name: str, text: str, kind: type[BaseModel]) -> Any:
    """A form's text as its field's type; validation refuses a text that is not of that type."""
    field = kind.model_fields.get(name)
    wanted = "" if field is None else str(field.annotation)
    if name in _OWN_SWITCHES:
        wanted = "bool"
    for word, read in _TYPES.items():
        if re.search(rf"\b{word}\b", wanted):
            try:
                return read(text)
            except (KeyError, ValueError):
                return text
    return text


_OWN_SWITCHES = frozenset({"strict", "timings"})
_TYPES: Mapping[str, Callable[[str], Any]] = {
    "bool": lambda text: _TRUE_OR_FALSE[text.lower()],
    "int": int,
    "float": float,
}


def _plain(text: str) -> Any:
    """A value of ``routing`` in a form: true, false, a number, or a text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text


async def _referred(request: Request, reference: PictureReference) -> tuple[bytes, str]:
    """The bytes of a picture that is named, and the parameter that names it."""
    if (reference.image_url is None) == (reference.file_id is None):
        raise InvalidRequest("'input_reference' has an 'image_url' or a 'file_id'.", param="input_reference")
    if reference.file_id is not None:
        param = "input_reference.file_id"
        runtime = runtime_of(request)
        record = await runtime.storage.found(FILE, reference.file_id, caller_of(request), param=param)
        if record.body["bytes"] > MAX_BYTES:
            raise PayloadTooLarge(f"A picture is over the limit of {MAX_BYTES // 2**20} MiB.", param=param)
        try:
            return await asyncio.to_thread(runtime.files.path(record.id).read_bytes), param
        except FileNotFoundError:
            raise NotFound(f"The content of the file {record.id!r} is gone.", param=param) from None
    url, param = reference.image_url or "", "input_reference.image_url"
    try:
        if not is_data_url(url):
            url = await Fetcher(services_of(request).settings.backends.fetch).fetch(url)
        _, data = read_data_url(url)
        return await asyncio.to_thread(decoded, data), param
    except RoundhouseError as error:
        error.param = param
        raise


def _checked(picture: bytes, param: str) -> str:
    """The kind of a picture. Raises UndecodableMedia and PayloadTooLarge."""
    try:
        kind = checked_picture(picture).kind
    except InvalidRequest as error:
        error.param = param
        raise
    if kind not in READ:
        raise UndecodableMedia(f"A {kind} is no first frame; send PNG, JPEG or WebP.", param=param)
    refuse_cut_off(kind, picture, param)
    return kind
