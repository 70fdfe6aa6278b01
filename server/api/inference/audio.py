"""POST /v1/audio/transcriptions, /translations and /speech."""

from __future__ import annotations

import base64
import re
from typing import Any

import orjson
from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from backends.streams.noted import NotedAudio
from backends.wire.answers import SpeechEvent, TranscriptEvent, Transcription
from backends.wire.audio import SPEECH_MEDIA, SpeechRequest, TranscriptionRequest
from catalog.errors import InvalidRequest, RoundhouseError, StreamBroken
from catalog.types import Json
from routing.reading.tokens import estimate_tokens
from server.answers.diarizing import FINAL, opens_with_speakers
from server.answers.streams import BytesEncoder, EventEncoder, event, stream_bytes, stream_events
from server.answers.transcripts import MEDIA, diarized_json, plain_json, srt, verbose_json, vtt
from server.answers.whole import whole
from server.api.stored.voices import with_recording
from server.edge.bodies import read_form
from server.edge.callers import caller_of, origin_of, with_stand_in
from server.edge.contracts import Contract, route
from server.edge.json_body import from_validation
from server.edge.services import runtime_of, services_of
from server.jobs import speech_job, transcription_job

router = APIRouter(tags=["audio"])


TRANSCRIBES = Contract(
    reads=TranscriptionRequest,
    form=True,
    own_reading=True,
    answers=Transcription,
    media={"text/plain": str, "text/vtt": str, "application/x-subrip": str},
    streams=TranscriptEvent,
    calls_model=True,
)
"""The contract of transcriptions and translations."""


@route(router, "POST", "/v1/audio/transcriptions", TRANSCRIBES)
async def create_transcription(request: Request) -> Response:
    """Transcribe speech."""
    return await _transcribe(request, translate=False)


@route(router, "POST", "/v1/audio/translations", TRANSCRIBES)
async def create_translation(request: Request) -> Response:
    """Transcribe speech of another language into English, where the model can."""
    return await _transcribe(request, translate=True)


@route(
    router,
    "POST",
    "/v1/audio/speech",
    Contract(
        reads=SpeechRequest,
        media=dict.fromkeys(SPEECH_MEDIA.values(), bytes),
        streams=SpeechEvent,
        calls_model=True,
    ),
)
async def create_speech(request: Request, body: SpeechRequest) -> Response:
    """Speak a text: as audio while it is made, or as events that carry it."""
    longest = services_of(request).settings.server.limits.speech_characters
    if len(body.input) > longest:
        raise InvalidRequest(
            f"The text has {len(body.input)} characters; the limit is {longest}. Send it in parts.", param="input"
        )
    job = speech_job(await with_recording(request, body), origin_of(request))
    if body.stream_format == "sse":
        return await stream_events(request, job, SpeechEncoder(prompt_tokens=estimate_tokens(body.input)))
    return await stream_bytes(request, job, BytesEncoder(), SPEECH_MEDIA[body.response_format])


class SpeechEncoder:
    """Encodes audio as events: ``speech.audio.delta`` with base64, and ``speech.audio.done`` with usage.

    A delta also has the provider's notes: times of what is spoken, and the id for stitching. The tokens of the
    text are estimated; those of the sound are 0, as voices are not known to make tokens.
    """

    def __init__(self, *, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._came = False

    def encode(self, item: bytes) -> bytes:
        notes = item.notes if isinstance(item, NotedAudio) else {}
        if not item and not any(notes.values()):
            return b""
        self._came = self._came or bool(item)
        return event({"type": "speech.audio.delta", "audio": base64.b64encode(item).decode(), **notes})

    def finish(self) -> bytes:
        if not self._came:
            raise StreamBroken("No audio came.")
        usage = {"input_tokens": self._prompt_tokens, "output_tokens": 0, "total_tokens": self._prompt_tokens}
        return event({"type": "speech.audio.done", "usage": usage})

    def fail(self, error: RoundhouseError) -> bytes | None:
        return event(error.to_body())


async def _transcribe(request: Request, *, translate: bool) -> Response:
    async with read_form(request) as form:
        body = with_stand_in(request, await transcription_of(form, translate=translate))

    job = transcription_job(body, origin_of(request))
    opens = opens_with_speakers(runtime_of(request), job, caller_of(request), origin_of(request))
    if body.stream:
        return await stream_events(request, job, EventEncoder(FINAL), opens)
    done, headers = await whole(request, job, _Done, opens)
    return Response(
        _formatted(done, body), headers={**headers, "content-type": MEDIA[body.response_format]}, status_code=200
    )


def _formatted(done: Json, body: TranscriptionRequest) -> bytes:
    segments = done.get("segments") or []
    match body.response_format:
        case "text":
            return (str(done.get("text", "")) + "\n").encode()
        case "srt":
            return srt(segments).encode()
        case "vtt":
            return vtt(segments).encode()
        case "verbose_json":
            return orjson.dumps(verbose_json(done, body))
        case "diarized_json":
            return orjson.dumps(diarized_json(done))
        case "json":
            return orjson.dumps(plain_json(done))


class _Done:
    """Assembles the event with the whole transcript."""

    def __init__(self) -> None:
        self._done: Json | None = None

    def add(self, item: Json) -> None:
        if item.get("type") == FINAL:
            self._done = item

    def result(self) -> Json:
        if self._done is None:
            raise StreamBroken("The transcript ended before it was complete.")
        return self._done


async def transcription_of(form: FormData, *, translate: bool) -> TranscriptionRequest:
    """The typed request of a form. Raises InvalidRequest that names the field."""
    fields: dict[str, Any] = {"translate": translate}
    for name in dict.fromkeys(form.keys()):
        values = form.getlist(name)
        if name == "file":
            upload = values[0]
            if not isinstance(upload, UploadFile):
                raise InvalidRequest("'file' must be a file: give it a filename.", param="file")
            fields["file"] = await upload.read()
            fields["filename"] = (upload.filename or "audio")[:1024]
        elif any(isinstance(value, UploadFile) for value in values):
            raise InvalidRequest("The only file is 'file'.", param=name[:64])
        elif (part := _PART.fullmatch(name)) is not None:
            fields[part[1]] = {**_object(fields.get(part[1])), part[2]: str(values[-1])}
        else:
            fields[name.removesuffix("[]")] = _field(name, [str(value) for value in values])
    if "file" not in fields:
        raise InvalidRequest("The form has no 'file'.", param="file")
    if not fields["file"]:
        raise InvalidRequest("The file is empty.", param="file")
    _check_granularities(fields)
    try:
        request = TranscriptionRequest.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, fields) from None
    if translate and request.response_format == "diarized_json":
        raise InvalidRequest(
            "A translation does not say who speaks: the response_format is json, text, srt, verbose_json or vtt.",
            param="response_format",
        )
    if request.stream and request.response_format in _DOCUMENTS:
        raise InvalidRequest(
            f"A stream is events: it cannot be {request.response_format}. Leave out 'stream', or ask for the "
            "response_format json, verbose_json or diarized_json.",
            param="response_format",
        )
    return request


_PART = re.compile(r"(\w{1,64})\[(\w{1,64})\]")
"""A member of an object, as OpenAI's SDKs write it in a form."""
_DOCUMENTS = ("text", "srt", "vtt")
"""Formats of a whole transcript, which no event can have."""
_LISTS = frozenset({"include", "keywords", "known_speaker_names", "known_speaker_references", "languages"})


def _object(value: Any) -> dict[str, str]:
    return value if isinstance(value, dict) else {}


def _field(name: str, values: list[str]) -> Any:
    """A form's text as its field's type; validation refuses a text that is not of that type."""
    if name.removesuffix("[]") == "timestamp_granularities":
        return tuple(part for value in values for part in value.split(",") if part)
    if name.endswith("[]") or name in _LISTS:
        return tuple(value for value in values if value)
    value = values[-1]
    if name in ("stream", "vad_filter", "strict", "timings"):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
    if name == "temperature":
        try:
            return float(value)
        except ValueError:
            return value
    if name in ("language", "prompt") and not value:
        return None
    return value


def _check_granularities(fields: dict[str, Any]) -> None:
    if "timestamp_granularities" in fields and fields.get("response_format") != "verbose_json":
        raise InvalidRequest(
            "'timestamp_granularities' is only for response_format verbose_json.", param="timestamp_granularities"
        )
