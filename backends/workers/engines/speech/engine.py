"""Engine ``speech``: text to speech with hibari's or Kokoro's voices, sentence by sentence, in six formats."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.wire.audio import MEDIA_TYPES, SPEECH_MEDIA, SpeechRequest
from backends.workers.engines.common.audio import check_rate, encode
from backends.workers.engines.common.options import EngineOptions, read_options
from backends.workers.engines.speech.hibari import HibariVoices
from backends.workers.engines.speech.kokoro import KokoroVoices
from backends.workers.engines.speech.speaking import Telling, spoken
from backends.workers.engines.speech.ssml import Script, script_of
from backends.workers.engines.speech.voices import (
    SCRIPTS,
    Choice,
    Cloner,
    Synthesizer,
    Voice,
    choose,
    foreign_letters,
)
from backends.workers.engines.speech.voices import spoken as speaks
from backends.workers.program.app import dropped, json_response, parse, serve_engine, stream_response
from backends.workers.program.threads import CancelSignal, ThreadRunner, WorkerStats
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import EngineMissing, ModelUnavailable, UnsupportedValue


class SpeechOptions(EngineOptions):
    """The ``options`` of a catalogue row."""

    library: Literal["hibari", "kokoro", "pocket"] = "hibari"
    voice: str | None = Field(default=None, description="default voice")
    formats: tuple[str, ...] = Field(default=tuple(MEDIA_TYPES), description="supported formats")
    file: str = Field(default="model.onnx", pattern=r"^[\w][\w.-]*\.onnx$")
    styles: str = Field(default="voices.bin", pattern=r"^[\w][\w.-]*$")
    language: str = Field(default="english", pattern=r"^[a-z0-9_]+$", description="Pocket TTS: its configuration")

    def needed(self, folder: Path) -> tuple[str, ...]:
        del folder
        return (self.file, self.styles) if self.library == "kokoro" else ()


class WorkerSpeech(SpeechRequest):
    """A speech request as workers take it: ``recording`` is audio in base64, whose voice is to speak."""

    recording: str | None = Field(default=None, repr=False)


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run the worker; see ``backends.workers.spec.EngineEntryPoint``. Raises as ``load`` does."""
    serve_engine(spec, SpeechEngine(spec), ready)


class SpeechEngine:
    """Synthesises up to ``slots`` texts concurrently, a piece of each in turn."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._runner = ThreadRunner(spec.slots, threads=max(1, spec.threads // 2))

    @property
    def stats(self) -> WorkerStats:
        return self._runner.stats

    def load(self) -> None:
        self._options = read_options(SpeechOptions, "speech", self._spec.options)
        try:
            import av  # noqa: F401
        except ImportError:
            raise EngineMissing("speech", extra="speech", package="av") from None
        self._synthesizer = self._open()
        names = [voice.name for voice in self._synthesizer.voices]
        self._default = self._options.voice or next(iter(names), None)
        if self._default is not None and self._default not in names:
            raise ModelUnavailable(f"'{self._spec.model_id}' has no voice {self._default!r}.")
        self._warm_up()

    def close(self) -> None:
        self._runner.close()

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/v1/audio/speech", self._speech, methods=["POST"]),
            Route("/v1/audio/voices", self._voices),
        ]

    def _open(self) -> Synthesizer:
        if self._options.library == "kokoro":
            folder = Path(self._spec.path or "")
            return KokoroVoices(
                folder, file=self._options.file, styles=self._options.styles, threads=self._spec.threads
            )
        if self._options.library == "pocket":
            from backends.workers.engines.speech.pocket import PocketVoices

            folder = Path(self._spec.path or "")
            return PocketVoices(folder, language=self._options.language, threads=self._spec.threads)
        return HibariVoices(threads=1)  # a second thread makes this small graph slower

    def _warm_up(self) -> None:
        """Speak a word, so that the dictionaries are loaded before the first request."""
        voice = next((each for each in self._synthesizer.voices if each.name == self._default), None)
        if voice is None:
            return
        for piece in self._synthesizer.read("a", language=voice.languages[0]):
            self._synthesizer.speak(piece, voice, speed=1.0)

    async def _voices(self, _: Request) -> Response:
        rows = [
            {
                "id": voice.name,
                "object": "voice",
                "model": self._spec.model_id,
                "languages": voice.languages,
                "gender": voice.gender,
                "default": voice.name == self._default,
            }
            for voice in self._synthesizer.voices
        ]
        return json_response({"object": "list", "data": rows})

    async def _speech(self, http: Request) -> Response:
        request = parse(WorkerSpeech, await http.body())
        script = script_of(request.input)
        recording = None if request.recording is None else b64decode(request.recording)
        choice, unused = self._checked(request, script)
        rate = request.sample_rate or self._synthesizer.sample_rate
        check_rate(request.response_format, rate)
        timed = bool(request.timestamp_granularities)

        def produce(cancel: CancelSignal) -> Generator[bytes, None, None]:
            slowest, fastest = self._synthesizer.speeds
            pace = min(max(request.speed, slowest), fastest)
            telling = Telling(self._synthesizer.sample_rate, tempo=request.speed / pace)
            chosen = choice
            if recording is not None:
                assert isinstance(self._synthesizer, Cloner), "it was checked"
                chosen = replace(choice, voice=self._synthesizer.clone(recording))
            audio = encode(
                spoken(self._synthesizer, script, chosen, pace, telling, cancel),
                audio_format=request.response_format,
                source_rate=self._synthesizer.sample_rate,
                rate=rate,
                tempo=request.speed / pace,
            )
            for data in audio:
                yield telling.event(data) if timed else data
            if timed and telling.words:
                yield telling.event(b"")

        headers = {
            "x-roundhouse-voice": quote(choice.voice.name, safe="+()"),
            "x-roundhouse-language": choice.language,
            "x-roundhouse-sample-rate": str(rate),
            **dropped(unused),
        }
        media_type = "text/event-stream" if timed else SPEECH_MEDIA[request.response_format]
        return await stream_response(http, self._runner.stream(produce), media_type=media_type, headers=headers)

    def _chosen(self, request: WorkerSpeech, text: str) -> Choice:
        """The voice of a request for a text. Raises UnsupportedParameter."""
        if request.recording is None:
            return choose(
                self._synthesizer.voices,
                default=self._default,
                name=request.voice_name,
                language=request.language,
                strict=bool(request.strict),
                text=text,
                blends=self._synthesizer.blends,
                unread=self._synthesizer.unread,
            )
        if not isinstance(self._synthesizer, Cloner):
            raise UnsupportedValue(
                f"'{self._spec.model_id}' cannot speak with the voice of a recording.", param="voice"
            )
        own = self._synthesizer.language
        if request.language is not None and speaks(Voice("", (own,)), request.language) is None:
            raise UnsupportedValue(f"'{self._spec.model_id}' speaks {own!r} alone.", param="language")
        return Choice(Voice(request.voice_name or "recording", (own,)), own, ())

    def _checked(self, request: WorkerSpeech, script: Script) -> tuple[Choice, list[str]]:
        """Choose the voice and list parameters without effect. Raises UnsupportedParameter."""
        if request.response_format not in self._options.formats:
            raise UnsupportedValue(f"{request.response_format} is not offered here.", param="response_format")
        if request.timestamp_granularities and (
            not self._synthesizer.timed or "character" in request.timestamp_granularities
        ):
            told = "of words alone" if self._synthesizer.timed else "of nothing"
            raise UnsupportedValue(
                f"'{self._spec.model_id}' tells the times {told} that it speaks.", param="timestamp_granularities"
            )
        text = "".join(part for part in script.parts if isinstance(part, str))
        choice = self._chosen(request, text)
        unused = [*choice.dropped, *(request.model_extra or {})]
        if request.instructions:
            unused.append("instructions")
        unused += [f"input.{name}" for name in script.unknown]
        scripts = SCRIPTS.get(choice.language.split("-")[0])
        if scripts is not None:
            letters, foreign = foreign_letters(text, scripts)
            if foreign and foreign == letters:
                raise UnsupportedValue(  # a voice of another model may read it
                    f"The voice {choice.voice.name!r} speaks {choice.language}, and cannot read this script.",
                    param="input",
                )
            if foreign:
                unused.append("input")
        if unused and request.strict:
            raise UnsupportedValue(
                f"'{self._spec.model_id}' cannot honour {', '.join(unused)}, and strict was asked for.",
                param=unused[0].partition(".")[0],
            )
        return choice, unused
