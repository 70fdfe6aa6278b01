"""POST /v1/audio/*: the requests. Source: OpenAI's API reference."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from backends.wire.common import Finite, Identifier, ModelName, Text, WireModel

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
TranscriptFormat = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]

MEDIA_TYPES: dict[str, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


class SpeechRequest(WireModel):
    """A text to speak. ``voice`` is a name of ``/v1/audio/voices``; ``sample_rate`` and ``language`` are ours."""

    model: ModelName = "auto"
    input: Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
    voice: Identifier | None = None
    instructions: Text | None = None
    response_format: AudioFormat = "mp3"
    speed: Annotated[Finite, Field(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    sample_rate: Annotated[int, Field(ge=8000, le=48000)] | None = None
    language: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})?$")] | None = None
    strict: bool | None = None


class TranscriptionRequest(WireModel):
    """Audio to transcribe: the fields of the multipart form, and the file's bytes."""

    model: ModelName = "auto"
    file: bytes = Field(repr=False, exclude=True)
    filename: SkipJsonSchema[Annotated[str, StringConstraints(max_length=1024)]] = "audio"
    language: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})?$")] | None = None
    prompt: Annotated[str, StringConstraints(max_length=20_000)] | None = None
    response_format: TranscriptFormat = "json"
    temperature: Annotated[Finite, Field(ge=0, le=1)] | None = None
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ("segment",)
    stream: bool = False
    vad_filter: bool | None = None
    translate: SkipJsonSchema[bool] = False
