"""POST /v1/audio/*: the requests; and realtime connections. Source: OpenAI's API reference."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field, PrivateAttr, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from backends.wire.common import Finite, Identifier, ModelName, Text, WireModel
from catalog.names.languages import code_of
from catalog.types import Json

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
SpeechFormat = Literal[AudioFormat, "ulaw", "alaw"]
"""OpenAI's formats, and the two of telephony (ITU-T G.711), which ElevenLabs makes."""
TranscriptFormat = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]

MEDIA_TYPES: Mapping[SpeechFormat, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
SPEECH_MEDIA: Mapping[SpeechFormat, str] = {**MEDIA_TYPES, "ulaw": "audio/PCMU", "alaw": "audio/PCMA"}
"""Media types of speech; the telephony ones are of RFC 3551."""
MAX_TERMS = 1000
Language = Annotated[
    str, BeforeValidator(code_of), StringConstraints(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})?$")
]
"""A BCP 47 tag, or the English name of a language, as OpenAI's answers have it, which becomes its code."""
Term = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class VoiceId(WireModel):
    """OpenAI's form of a voice of the account's own; at any provider, ``id`` is the voice's id there."""

    id: Identifier


class SpeechRequest(WireModel):
    """A text to speak. ``voice`` is a name of ``/v1/audio/voices``, or an object with the ``id`` of a voice.

    ``sample_rate`` (Hz), ``bit_rate`` (kbit/s), ``language`` and ``timestamp_granularities`` are ours. The last is
    for ``stream_format: "sse"`` and asks for the times of what is spoken: each ``speech.audio.delta`` then has
    ``words`` or ``characters``, lists of ``{"word" or "character", "start", "end"}`` in seconds of the whole.
    """

    model: ModelName = "auto"
    input: Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
    voice: Identifier | VoiceId | None = None
    instructions: Text | None = None
    response_format: SpeechFormat = "mp3"
    speed: Annotated[Finite, Field(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    sample_rate: Annotated[int, Field(ge=8000, le=48000)] | None = None
    bit_rate: Annotated[int, Field(ge=8, le=512)] | None = None
    language: Language | None = None
    timestamp_granularities: Annotated[list[Literal["word", "character"]], Field(max_length=2)] | None = None
    strict: bool | None = None

    @property
    def voice_name(self) -> str | None:
        """The name or id of the voice, in either of its forms."""
        return self.voice.id if isinstance(self.voice, VoiceId) else self.voice


class ClonedSpeech(SpeechRequest):
    """A text to speak with the voice of a recording, which the server keeps: ``recording`` is its bytes."""

    recording: SkipJsonSchema[bytes] = Field(default=b"", repr=False, exclude=True)


class TranscriptionRequest(WireModel):
    """Audio to transcribe: the fields of the multipart form, and the file's bytes.

    ``keywords`` are words to recognise, ``languages`` those that may be spoken. With ``diarized_json``, segments
    have speakers: "A", "B"..., or ``known_speaker_names``, whose voices are in ``known_speaker_references``.
    """

    model: ModelName = "auto"
    file: bytes = Field(repr=False, exclude=True)
    filename: SkipJsonSchema[Annotated[str, StringConstraints(max_length=1024)]] = "audio"
    language: Language | None = None
    languages: Annotated[tuple[Language, ...], Field(max_length=32)] = ()
    prompt: Annotated[str, StringConstraints(max_length=20_000)] | None = None
    response_format: TranscriptFormat = "json"
    temperature: Annotated[Finite, Field(ge=0, le=1)] | None = None
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ("segment",)
    keywords: Annotated[tuple[Term, ...], Field(max_length=MAX_TERMS)] = ()
    known_speaker_names: Annotated[tuple[Identifier, ...], Field(max_length=32)] = ()
    known_speaker_references: Annotated[tuple[Text, ...], Field(max_length=32)] = Field(default=(), repr=False)
    chunking_strategy: Literal["auto"] | Annotated[dict[Identifier, Identifier], Field(max_length=8)] | None = None
    include: Annotated[tuple[Identifier, ...], Field(max_length=16)] = ()
    stream: bool = False
    vad_filter: bool | None = None
    translate: SkipJsonSchema[bool] = False


class RealtimeLink(Protocol):
    """An open connection to a provider. Its methods raise :mod:`catalog.errors`."""

    async def send(self, event: Json) -> None:
        """Send an event of the client. Raises StreamBroken once the provider has closed."""
        ...

    def events(self) -> AsyncIterator[Json]:
        """The provider's events after the first, until it closes. Raises StreamBroken if the connection breaks."""
        ...


class RealtimeRequest(WireModel):
    """A connection for one session. ``transcribes`` asks for a session of transcripts."""

    model: ModelName = "auto"
    transcribes: SkipJsonSchema[bool] = False

    _link: RealtimeLink | None = PrivateAttr(default=None)

    @property
    def link(self) -> RealtimeLink:
        """The connection, once the first event has come."""
        assert self._link is not None, "the connection is not open"
        return self._link

    def opened(self, link: RealtimeLink) -> None:
        """Keep the connection that a backend has opened."""
        self._link = link


class RealtimeTurn(WireModel):
    """One response of an open connection, whose events end with its ``response.done``.

    It is a request of its own for limits, money and traces. ``most`` is the answer's bound in tokens, and
    ``prompt_tokens`` the estimated length of what it answers.
    """

    model: ModelName
    most: SkipJsonSchema[int | None] = None
    prompt_tokens: SkipJsonSchema[int] = 0

    _events: Any = PrivateAttr(default=None)

    def fed_by(self, events: AsyncIterator[Json]) -> RealtimeTurn:
        """This turn, with the iterator of its events."""
        self._events = events
        return self

    @property
    def events(self) -> AsyncIterator[Json]:
        events: AsyncIterator[Json] = self._events
        return events
