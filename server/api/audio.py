"""POST /v1/audio/transcriptions, /translations and /speech; GET /v1/audio/voices."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from backends.base import Speak, Transcribe, Upstream
from backends.wire.audio import MEDIA_TYPES, SpeechRequest, TranscriptionRequest
from catalog.errors import InvalidRequest, RoundhouseError, StreamBroken
from catalog.model import Model
from catalog.types import Json
from routing.calling.dispatcher import Job
from routing.reading.requests import read_speech, read_transcription
from server.answers.streams import BytesEncoder, EventEncoder, event, stream_bytes, stream_events
from server.answers.transcripts import MEDIA, diarized_json, plain_json, srt, verbose_json, vtt
from server.answers.whole import json_response, key_of, trace_of, whole
from server.api.models import speakers
from server.edge.bodies import read_form, read_json
from server.edge.errors import from_validation
from server.services import runtime_of

router = APIRouter(tags=["audio"])
FINAL = "transcript.text.done"


@router.post("/v1/audio/transcriptions")
async def create_transcription(request: Request) -> Response:
    """Write down what is said."""
    return await _transcribe(request, translate=False)


@router.post("/v1/audio/translations")
async def create_translation(request: Request) -> Response:
    """Write down in English what is said in another language, where the model can."""
    return await _transcribe(request, translate=True)


@router.post("/v1/audio/speech")
async def create_speech(request: Request) -> Response:
    """Speak a text: as audio while it is made, or as events that carry it."""
    body = await read_json(request, SpeechRequest)

    def call(backend: Speak, upstream: Upstream, model: Model) -> AsyncIterator[bytes]:
        del model
        return backend.speak(upstream, body)

    job: Job[bytes] = Job(
        facts=read_speech(body, key=key_of(request), headers=request.headers),
        protocol=Speak,
        request=body,
        call=call,
        trace=trace_of(request),
    )
    if body.stream_format == "sse":
        return await stream_events(request, job, SpeechEncoder(prompt_tokens=job.facts.prompt_tokens))
    return await stream_bytes(request, job, BytesEncoder(), MEDIA_TYPES[body.response_format])


@router.get("/v1/audio/voices")
async def list_voices(request: Request) -> Response:
    """The voices of every model that speaks."""
    runtime = runtime_of(request)
    return json_response(
        {
            "object": "list",
            "data": [
                {
                    "id": voice,
                    "object": "voice",
                    "model": row.id,
                    "languages": list(row.languages),
                    "default": not n,
                }
                for row in speakers(runtime)
                for n, voice in enumerate(row.voices)
            ],
        }
    )


class SpeechEncoder:
    """Audio in events: ``speech.audio.delta`` with base64, and ``speech.audio.done`` with usage."""

    def __init__(self, *, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._came = False

    def encode(self, item: bytes) -> bytes:
        if not item:
            return b""
        self._came = True
        return event({"type": "speech.audio.delta", "audio": base64.b64encode(item).decode()})

    def finish(self) -> bytes:
        if not self._came:
            raise StreamBroken("No audio came.")
        usage = {"input_tokens": self._prompt_tokens, "output_tokens": 0, "total_tokens": self._prompt_tokens}
        return event({"type": "speech.audio.done", "usage": usage})

    def fail(self, error: RoundhouseError) -> bytes | None:
        return event(error.to_body())


async def _transcribe(request: Request, *, translate: bool) -> Response:
    async with read_form(request) as form:
        body = await transcription_of(form, translate=translate)

    def call(backend: Transcribe, upstream: Upstream, model: Model) -> AsyncIterator[Json]:
        del model
        return backend.transcribe(upstream, body)

    job: Job[Json] = Job(
        facts=read_transcription(body, key=key_of(request), headers=request.headers),
        protocol=Transcribe,
        request=body,
        call=call,
        trace=trace_of(request),
    )
    if body.stream:
        return await stream_events(request, job, EventEncoder(FINAL))
    done, headers = await whole(request, job, _Done())
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
    """Waits for the event with the whole transcript."""

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
        else:
            fields[name.removesuffix("[]")] = _field(name, [str(value) for value in values])
    if "file" not in fields:
        raise InvalidRequest("The form has no 'file'.", param="file")
    if not fields["file"]:
        raise InvalidRequest("The file is empty.", param="file")
    _check_granularities(fields)
    try:
        return TranscriptionRequest.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, fields) from None


def _field(name: str, values: list[str]) -> Any:
    """A form's text as the type that its field has; what it is not is left for validation to refuse."""
    if name.endswith("[]") or name == "timestamp_granularities":
        return tuple(part for value in values for part in value.split(",") if part)
    value = values[-1]
    if name in ("stream", "vad_filter", "strict"):
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
