"""/v1/audio/voices and /v1/audio/voice_consents: OpenAI's custom voices, of recordings, beside the models' own.

A recording belongs to the key that uploaded it; models that clone speak with its voice. Source: OpenAI's API
reference, "Create voice" and "Create voice consent".
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Literal, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.responses import FileResponse, Response
from typing_extensions import TypedDict

from backends.voices import Gender, described
from backends.wire.audio import SPEECH_MEDIA, ClonedSpeech, Language, SpeechRequest
from backends.wire.common import WireModel
from catalog.errors import InvalidRequest, NotFound, RateLimited, UndecodableMedia, UnsupportedParameter
from catalog.model import Model
from catalog.types import Json
from routing.state.records import Record, RecordQuery, every, new_id
from server.answers.streams import BytesEncoder, stream_bytes
from server.answers.whole import json_response
from server.api.management.models import speakers
from server.api.stored.files import FORM_OVERHEAD, file_of
from server.api.stored.pages import ListQuery
from server.edge.bodies import read_form
from server.edge.callers import caller_of, origin_of
from server.edge.contracts import Contract, route
from server.edge.json_body import from_validation
from server.edge.services import runtime_of
from server.jobs import speech_job
from server.storage.files import CONSENT, VOICE
from server.storage.storage import listed

router = APIRouter(tags=["audio"])
RECORDING = 10 << 20
"""Bytes of the largest recording, as at OpenAI."""
_SAMPLES = {
    "en": "The old house by the river has a round roof and seven green doors.",
    "es": "La vieja casa junto al río tiene un techo redondo y siete puertas verdes.",
    "fr": "La vieille maison près de la rivière a un toit rond et sept portes vertes.",
    "hi": "नदी के पास पुराने घर की छत गोल है।",
    "it": "La vecchia casa vicino al fiume ha un tetto rotondo e sette porte verdi.",
    "ja": "川のそばの古い家には丸い屋根があります。",
    "pt": "A velha casa perto do rio tem um telhado redondo e sete portas verdes.",
    "zh": "河边的老房子有一个圆形的屋顶。",
}
"""Sentences that a voice is heard with, by language."""
_BEGINNINGS = (
    *(b"RIFF", b"ID3", b"OggS", b"fLaC", b"\x1aE\xdf\xa3"),
    *(b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xf1", b"\xff\xf9"),
)
"""First bytes of wav, mp3, ogg, flac, webm and aac; mp4 has ``ftyp`` after four others."""
_Form = TypeVar("_Form", bound=WireModel)
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class VoiceCard(TypedDict):
    """A voice of ``model``; ``default``: it speaks when a request names none. ``sample`` is a path to hear it."""

    id: str
    object: Literal["voice"]
    model: str
    languages: list[str]
    gender: Gender | None
    default: bool
    sample: str


class CustomVoice(TypedDict):
    """A voice of a recording of the caller's; ``created_at`` is Unix seconds."""

    id: str
    object: Literal["audio.voice"]
    created_at: int
    name: str
    type: Literal["audio_sample"]
    consent: str
    sample: str


class VoiceList(TypedDict):
    object: Literal["list"]
    data: list[VoiceCard | CustomVoice]


class DeletedVoice(TypedDict):
    id: str
    object: Literal["audio.voice.deleted"]
    deleted: bool


class Consent(TypedDict):
    """The recording in which a person agrees that the voice is used."""

    id: str
    object: Literal["audio.voice_consent"]
    created_at: int
    name: str
    language: str


class ConsentList(TypedDict):
    object: Literal["list"]
    data: list[Consent]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedConsent(TypedDict):
    id: str
    object: Literal["audio.voice_consent"]
    deleted: bool


class VoiceForm(WireModel):
    """A recording whose voice is to speak, and the id of its speaker's consent."""

    name: Name
    audio_sample: bytes
    consent: Name
    type: Literal["audio_sample"] = "audio_sample"


class ConsentForm(WireModel):
    """A recording in which a person agrees, and the language of it (BCP 47)."""

    name: Name
    language: Language
    recording: bytes


class ConsentUpdate(BaseModel):
    """A new label of a consent."""

    name: Name


class SampleQuery(BaseModel):
    """The model whose voice is meant, where several have one of this name."""

    model: Annotated[str, StringConstraints(max_length=256)] | None = Field(default=None)


# ---- consents


@route(
    router,
    "POST",
    "/v1/audio/voice_consents",
    Contract(reads=ConsentForm, form=True, own_reading=True, answers=Consent, raises=(RateLimited,)),
)
async def create_voice_consent(request: Request) -> Response:
    """Keep the recording of a person's consent."""
    async with _recording_form(request) as form:
        upload = file_of(form, "recording")
        fields = _fields(ConsentForm, form, "recording")
        body = {"object": "audio.voice_consent", "name": fields.name, "language": fields.language}
        record = await _keep(request, CONSENT, "cons", body, upload, param="recording")
    return json_response(_consent(record))


@route(router, "GET", "/v1/audio/voice_consents", Contract(query=ListQuery, answers=ConsentList))
async def list_voice_consents(request: Request, query: ListQuery) -> Response:
    """List the caller's consents."""
    owner = caller_of(request).id
    rows, more = await runtime_of(request).storage.page(RecordQuery(CONSENT, owner=owner), query.page())
    return json_response(listed([dict(_consent(row)) for row in rows], more))


@route(router, "GET", "/v1/audio/voice_consents/{consent_id}", Contract(answers=Consent))
async def retrieve_voice_consent(request: Request, consent_id: str) -> Response:
    """Describe one consent."""
    return json_response(_consent(await _found(request, CONSENT, consent_id)))


@route(router, "POST", "/v1/audio/voice_consents/{consent_id}", Contract(reads=ConsentUpdate, answers=Consent))
async def update_voice_consent(request: Request, consent_id: str, body: ConsentUpdate) -> Response:
    """Give a consent another label."""
    storage = runtime_of(request).storage
    record = await storage.change(
        CONSENT, consent_id, caller_of(request), lambda record: record.changed(name=body.name)
    )
    return json_response(_consent(record))


@route(router, "DELETE", "/v1/audio/voice_consents/{consent_id}", Contract(answers=DeletedConsent))
async def delete_voice_consent(request: Request, consent_id: str) -> Response:
    """Delete a consent. One whose voices are still there is kept: they may speak only with it."""
    runtime, owner = runtime_of(request), caller_of(request).id
    record = await _found(request, CONSENT, consent_id)
    async for voice in every(runtime.storage.records, RecordQuery(VOICE, owner=owner, limit=100)):
        if voice.body["consent"] == consent_id:
            raise InvalidRequest(
                f"The voice {voice.id!r} needs this consent. Delete it first.", param="consent_id"
            )
    await runtime.files.delete(record)
    return json_response({"id": record.id, "object": "audio.voice_consent", "deleted": True})


# ---- voices


@route(
    router,
    "POST",
    "/v1/audio/voices",
    Contract(reads=VoiceForm, form=True, own_reading=True, answers=CustomVoice, raises=(RateLimited,)),
)
async def create_voice(request: Request) -> Response:
    """Make a voice of a recording, for models that clone. Its speaker must have agreed (``consent``)."""
    async with _recording_form(request) as form:
        if form.get("type", "audio_sample") != "audio_sample":
            raise UnsupportedParameter("Voices are made of recordings here: send an audio_sample.", param="type")
        upload = file_of(form, "audio_sample")
        fields = _fields(VoiceForm, form, "audio_sample")
        consent = await _found(request, CONSENT, fields.consent, param="consent")
        body = {"object": "audio.voice", "name": fields.name, "type": "audio_sample", "consent": consent.id}
        record = await _keep(request, VOICE, "voice", body, upload, param="audio_sample")
    return json_response(_custom(record))


@route(router, "GET", "/v1/audio/voices", Contract(answers=VoiceList, exact=True))
async def list_voices(request: Request) -> Response:
    """List the caller's own voices, then those of every model that speaks and that this caller may use."""
    runtime, caller = runtime_of(request), caller_of(request)
    own = RecordQuery(VOICE, owner=caller.id, limit=100)
    data: list[VoiceCard | CustomVoice] = [_custom(row) async for row in every(runtime.storage.records, own)]
    for row in speakers(runtime):
        if caller.allows(row.id, runtime.catalog):
            data += [_card(row, voice, default=not n) for n, voice in enumerate(_names(row))]
    return json_response({"object": "list", "data": data})


@route(router, "GET", "/v1/audio/voices/{voice_id}", Contract(query=SampleQuery, answers=VoiceCard | CustomVoice))
async def retrieve_voice(request: Request, voice_id: str, query: SampleQuery) -> Response:
    """Describe one voice, the caller's own or a model's."""
    record = await _own(request, voice_id)
    if record is not None:
        return json_response(_custom(record))
    row = _speaker(request, voice_id, query.model)
    return json_response(_card(row, voice_id, default=_names(row)[0] == voice_id))


@route(
    router,
    "GET",
    "/v1/audio/voices/{voice_id}/sample",
    Contract(query=SampleQuery, media={"audio/mpeg": bytes, "application/octet-stream": bytes}),
)
async def hear_voice(request: Request, voice_id: str, query: SampleQuery) -> Response:
    """The recording of the caller's own voice; of a model's a sentence in its language, spoken now."""
    runtime = runtime_of(request)
    record = await _own(request, voice_id)
    if record is not None:
        path = runtime.files.path(record.id)
        if not path.is_file():
            raise NotFound(f"The recording of the voice {record.id!r} is gone.")
        return FileResponse(path, media_type="application/octet-stream")
    row = _speaker(request, voice_id, query.model)
    languages, _ = described(row, voice_id)
    text = _SAMPLES.get(next(iter(languages), "en").split("-")[0], _SAMPLES["en"])
    job = speech_job(SpeechRequest(model=row.id, input=text, voice=voice_id), origin_of(request))
    return await stream_bytes(request, job, BytesEncoder(), SPEECH_MEDIA["mp3"])


@route(router, "DELETE", "/v1/audio/voices/{voice_id}", Contract(answers=DeletedVoice))
async def delete_voice(request: Request, voice_id: str) -> Response:
    """Delete one of the caller's own voices and its recording; the consent stays."""
    record = await _found(request, VOICE, voice_id)
    await runtime_of(request).files.delete(record)
    return json_response({"id": record.id, "object": "audio.voice.deleted", "deleted": True})


async def with_recording(request: Request, body: SpeechRequest) -> SpeechRequest:
    """The request with the recording of the caller's own voice that it names, else as it is. Raises NotFound."""
    name = body.voice_name
    if name is None or not name.startswith("voice_"):
        return body
    record = await _own(request, name)
    if record is None:
        return body  # a provider may have a voice of this id
    path = runtime_of(request).files.path(record.id)
    try:
        recording = await asyncio.to_thread(path.read_bytes)
    except FileNotFoundError:
        raise NotFound(f"The recording of the voice {record.id!r} is gone.", param="voice") from None
    return ClonedSpeech.model_validate({**body.model_dump(exclude_unset=True), "recording": recording})


# ---- helpers


def _recording_form(request: Request) -> AbstractAsyncContextManager[FormData]:
    return read_form(request, limit=RECORDING + FORM_OVERHEAD, folder=runtime_of(request).files.folder)


async def _keep(request: Request, kind: str, prefix: str, body: Json, upload: UploadFile, *, param: str) -> Record:
    """Store the recording of the field ``param``. Raises InvalidRequest, UndecodableMedia, FilesFull."""
    runtime = runtime_of(request)
    size = upload.size or 0
    if size > RECORDING:
        raise InvalidRequest(f"A recording may have {RECORDING:,} bytes.", param=param)
    beginning = await upload.read(16)
    if not beginning.startswith(_BEGINNINGS) and beginning[4:8] != b"ftyp":
        raise UndecodableMedia("The file is no audio: wav, mp3, ogg, flac, aac, mp4 and webm are.", param=param)
    name = new_id(prefix)
    created = int(runtime.storage.now())
    record = runtime.storage.new(
        kind, name, {"id": name, **body, "created_at": created, "bytes": size}, caller_of(request), expires_at=None
    )
    await runtime.files.keep(record, upload.file)
    return record


def _fields(kind: type[_Form], form: FormData, file: str) -> _Form:
    sent = {name: value for name, value in form.items() if name != file and not isinstance(value, UploadFile)}
    try:
        parsed = kind.model_validate({**sent, file: b"."})
    except ValidationError as error:
        raise from_validation(error, sent) from None
    if parsed.model_extra:
        unknown = next(iter(parsed.model_extra))[:64]
        raise InvalidRequest(f"'{unknown}' is no field of this form.", param=unknown)
    return parsed


async def _found(request: Request, kind: str, name: str, *, param: str | None = None) -> Record:
    return await runtime_of(request).storage.found(kind, name, caller_of(request), param=param)


async def _own(request: Request, voice: str) -> Record | None:
    """The caller's own voice of this id, if there is one."""
    if not voice.startswith("voice_"):
        return None
    return await runtime_of(request).storage.records.get(VOICE, voice, caller_of(request).id)


def _speaker(request: Request, voice: str, model: str | None) -> Model:
    """The first model that has a voice and that the caller may use. Raises NotFound."""
    runtime, caller = runtime_of(request), caller_of(request)
    for row in speakers(runtime):
        named = model is None or runtime.catalog.get(model) is row
        if named and voice in _names(row) and caller.allows(row.id, runtime.catalog):
            return row
    raise NotFound(f"There is no voice {voice[:80]!r}. GET /v1/audio/voices lists them.", param="voice_id")


def _names(row: Model) -> list[str]:
    return list(dict.fromkeys((*row.voices, *row.voice_map)))


def _card(row: Model, voice: str, *, default: bool) -> VoiceCard:
    languages, gender = described(row, voice)
    return {
        "id": voice,
        "object": "voice",
        "model": row.id,
        "languages": list(languages),
        "gender": gender,
        "default": default,
        "sample": f"/v1/audio/voices/{quote(voice, safe='')}/sample?model={quote(row.id, safe='')}",
    }


def _custom(record: Record) -> CustomVoice:
    body = record.body
    return {
        "id": record.id,
        "object": "audio.voice",
        "created_at": body["created_at"],
        "name": body["name"],
        "type": "audio_sample",
        "consent": body["consent"],
        "sample": f"/v1/audio/voices/{record.id}/sample",
    }


def _consent(record: Record) -> Consent:
    body = record.body
    return {
        "id": record.id,
        "object": "audio.voice_consent",
        "created_at": body["created_at"],
        "name": body["name"],
        "language": body["language"],
    }
