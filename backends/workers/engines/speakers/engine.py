"""Engine ``speakers``: who spoke when, without words.

It answers transcriptions whose text is empty and whose segments have a ``speaker``: "A", "B"... in the order in
which they first speak, or the name of a known speaker whose voice is the most alike. The gateway gives the words
of another model's transcript to these turns (:mod:`server.answers.diarizing`).
"""

from __future__ import annotations

import binascii
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.wire.audio import TranscriptionRequest
from backends.workers.engines.common.audio import Samples, decode, decode_pieces, length_of
from backends.workers.engines.common.options import EngineOptions, read_options
from backends.workers.engines.common.transcripts import Transcript, answer_events, read_form
from backends.workers.engines.speakers.clustering import MOST_SPEAKERS, Speakers, SpeakerTurn, SpeechWindow
from backends.workers.engines.speakers.voices import RATE, Features, Vectors, VoiceEncoder
from backends.workers.program.app import serve_engine
from backends.workers.program.threads import CancelSignal, ThreadRunner, WorkerStats
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import CapabilityMismatch, EngineMissing, InvalidRequest, ModelUnavailable
from catalog.types import Json

WINDOW, STEP = 1.6, 0.8
"""Seconds of speech that a vector is made of, and from one to the next."""
PIECE, QUIET = 300.0, 20.0
"""Seconds of audio in memory at a time, and those at its end in which the quietest moment is the cut."""
SHORTEST = 0.3
"""Seconds of speech below which nothing is made of it."""
LONGEST_REFERENCE = 30.0
"""Seconds of a known speaker's sample."""


class SpeakersOptions(EngineOptions):
    """The ``options`` of a catalogue row."""

    file: str = Field(default="model.onnx", pattern=r"^[\w][\w.-]*\.onnx$")
    features: Features = Field(default="ge2e", description="what the network reads: ge2e, or Kaldi's fbank")
    alike: float = Field(default=0.70, gt=0, lt=1, description="mean cosine similarity of one speaker's voice")
    max_audio_seconds: float = Field(default=14_400.0, gt=0)

    def needed(self, folder: Path) -> tuple[str, ...]:
        del folder
        return (self.file,)


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run the worker; see ``backends.workers.spec.EngineEntryPoint``. Raises as ``load`` does."""
    serve_engine(spec, SpeakersEngine(spec), ready)


class SpeakersEngine:
    """Tells the speakers of up to ``slots`` files apart, a piece of each in turn."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._runner = ThreadRunner(spec.slots, threads=max(1, spec.threads // 2))

    @property
    def stats(self) -> WorkerStats:
        return self._runner.stats

    def load(self) -> None:
        self._options = read_options(SpeakersOptions, "speakers", self._spec.options)
        try:
            import av  # noqa: F401
            from faster_whisper import vad  # noqa: F401
        except ImportError as error:
            raise EngineMissing("speakers", extra="speech", package=error.name) from None
        file = Path(self._spec.path or "") / self._options.file
        if not file.is_file():
            raise ModelUnavailable(f"The model file {file.name} is missing. Pull the model again.")
        device = self._spec.device.partition(":")[0]
        self._encoder = VoiceEncoder(
            file, features=self._options.features, threads=min(self._spec.threads, 2), device=device
        )
        self._encoder.embed([np.zeros(int(WINDOW * RATE), np.float32)], lambda: None)

    def close(self) -> None:
        self._runner.close()

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/v1/audio/transcriptions", self._turns_of, methods=["POST"])]

    async def _turns_of(self, http: Request) -> Response:
        request = await read_form(http)
        if request.translate:
            raise CapabilityMismatch(f"'{self._spec.model_id}' hears no words.", param="model")
        count, unused = _count(request)

        def produce(cancel: CancelSignal) -> Generator[Json, None, None]:
            yield from self._events(request, count, cancel)

        return await answer_events(http, self._runner, produce, unused=unused)

    def _events(
        self, request: TranscriptionRequest, count: int | None, cancel: CancelSignal
    ) -> Generator[Json, None, None]:
        known = self._known(request, cancel)
        speakers = Speakers(self._options.alike, count)
        told = Transcript(request, whole=length_of(request.file))
        stretches = 0
        pieces = decode_pieces(
            request.file,
            rate=RATE,
            max_seconds=self._options.max_audio_seconds,
            check=cancel.check,
            seconds=PIECE,
            quiet=QUIET,
        )
        for audio in pieces:
            windows, sounds = _windows(audio, after=told.duration, stretch=stretches)
            stretches += len(windows)
            if sounds:
                speakers.add(windows, self._encoder.embed(sounds, cancel.check))
            told.duration += len(audio) / RATE
            yield told.delta("")
        turns, voices = speakers.turns()
        names = _names(voices, known, alike=self._options.alike)
        told.segments = [_segment(number, turn, names) for number, turn in enumerate(turns)]
        yield told.done()

    def _known(self, request: TranscriptionRequest, cancel: CancelSignal) -> dict[str, Vectors]:
        """The vectors of the known speakers' voices. Raises InvalidRequest."""
        names, samples = request.known_speaker_names, request.known_speaker_references
        if len(names) != len(samples):
            raise InvalidRequest(
                "Each of 'known_speaker_names' needs a sample in 'known_speaker_references'.",
                param="known_speaker_references",
            )
        found = {}
        for name, sample in zip(names, samples, strict=True):
            audio = decode(_data(sample), rate=RATE, max_seconds=LONGEST_REFERENCE, check=cancel.check)
            _, sounds = _windows(audio, after=0.0, stretch=0)
            if not sounds:
                raise InvalidRequest(f"The sample of {name!r} has no speech.", param="known_speaker_references")
            found[name] = self._encoder.embed(sounds, cancel.check).mean(axis=0)
        return found


def _count(request: TranscriptionRequest) -> tuple[int | None, list[str]]:
    """The number of speakers that the caller knows, and the parameters without effect."""
    extra = dict(request.model_extra or {})
    given = extra.pop("num_speakers", None)
    if given is None:
        return None, [*extra]
    if not str(given).isdecimal() or not 1 <= int(given) <= MOST_SPEAKERS:
        raise InvalidRequest(f"'num_speakers' is a number from 1 to {MOST_SPEAKERS}.", param="num_speakers")
    return int(given), [*extra]


def _data(sample: str) -> bytes:
    """The bytes of a sample, which is a data URL or base64. Raises InvalidRequest."""
    text = sample.partition(",")[2] if sample[:5].lower() == "data:" else sample
    try:
        if data := binascii.a2b_base64(text, strict_mode=True):
            return data
        raise ValueError
    except ValueError:
        raise InvalidRequest(
            "A sample of a known speaker is a data URL with base64.", param="known_speaker_references"
        ) from None


def _windows(audio: Samples, *, after: float, stretch: int) -> tuple[list[SpeechWindow], list[Samples]]:
    """Windows over the speech of a piece, and their samples, all of one length; a short one is repeated to it."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    size, step = int(WINDOW * RATE), int(STEP * RATE)
    windows: list[SpeechWindow] = []
    sounds: list[Samples] = []
    options = VadOptions(min_silence_duration_ms=200, speech_pad_ms=30)
    for number, part in enumerate(get_speech_timestamps(audio, options)):
        start, end = int(part["start"]), int(part["end"])
        if end - start < SHORTEST * RATE:
            continue
        for at in range(start, max(start + 1, end - size + step), step):
            last = min(at + size, end)
            sound = audio[max(start, last - size) : last]
            windows.append(SpeechWindow(after + at / RATE, after + last / RATE, stretch + number))
            sounds.append(sound if len(sound) == size else np.resize(sound, size))
    return windows, sounds


def _names(voices: Vectors, known: dict[str, Vectors], *, alike: float) -> list[str]:
    """The label of each speaker: a known name goes to the voice that is the most alike, if it is alike enough."""
    labels = [""] * len(voices)
    pairs = sorted(
        ((float(voice @ vector) / float(np.linalg.norm(vector)), place, name)
         for place, voice in enumerate(voices) for name, vector in known.items()),
        reverse=True,
    )  # fmt: skip
    for likeness, place, name in pairs:
        if likeness >= alike and not labels[place] and name not in labels:
            labels[place] = name
    letters = (label for number in range(2 * MOST_SPEAKERS) if (label := _letter(number)) not in known)
    return [label or next(letters) for label in labels]


def _letter(number: int) -> str:
    return chr(ord("A") + number % 26) * (1 + number // 26)


def _segment(number: int, turn: SpeakerTurn, names: list[str]) -> Json:
    return {
        "id": number,
        "start": round(turn.start, 3),
        "end": round(turn.end, 3),
        "text": "",
        "speaker": names[turn.speaker],
    }
