"""Engine ``whisper``: speech to text with faster-whisper (CTranslate2).

A model is a folder in CTranslate2's format (``model.bin``, ``config.json``, ``tokenizer.json``). The response is
always a stream of events: a delta per segment, then ``transcript.text.done`` with all fields of OpenAI's
verbose_json. A disconnect ends the work before the next call of CTranslate2, which cannot be interrupted within
one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.wire.audio import TranscriptionRequest
from backends.workers.engines.common.audio import Samples, decode_pieces, length_of
from backends.workers.engines.common.options import EngineOptions, read_options
from backends.workers.engines.common.text_tokenizer import TextTokenizer
from backends.workers.engines.common.token_routes import token_routes
from backends.workers.engines.common.transcripts import Transcript, answer_events, read_form
from backends.workers.program.app import serve_engine
from backends.workers.program.threads import CancelSignal, ThreadRunner, WorkerStats
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import (
    CapabilityMismatch,
    EngineMissing,
    ModelUnavailable,
    UnsupportedValue,
)
from catalog.names.languages import language_of
from catalog.types import Json

if TYPE_CHECKING:
    from ctranslate2 import StorageView
    from faster_whisper import WhisperModel
    from faster_whisper.transcribe import Segment, Word


_RATE = 16_000
_FRAMES_A_SECOND = 100
_LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Temperatures tried in turn while the text is repetitive or improbable (OpenAI's default)."""


_FILES = ("model.bin", "tokenizer.json")
FIRST, PIECE, QUIET = 60.0, 300.0, 20.0
"""Seconds of audio in memory at a time (2 hours at once took 5.5 GB), and those at its end in which the quietest
moment is the cut. The first piece is short, so that the first words come soon."""
SURE = 0.5
"""Probability from which a detected language holds for the rest of the file."""
PROMPT_CHARACTERS = 200
"""Of a piece's text that the next one is prompted with; within a piece Whisper does so by itself."""
SPEECH: Mapping[str, Any] = {"threshold": 0.35, "min_silence_duration_ms": 2000, "speech_pad_ms": 600}
"""Options of Silero's model of voice activity. They are lenient, as what is skipped is lost: a pause within
speech stays, and so do quiet words and the edges of loud ones."""
SPARE = 10.0
"""Seconds of silence that a short file is encoded with, instead of what fills its window of 30 seconds: two to
three times as fast, and the same words. With less than that the decoder may repeat itself without end, and
translations come out worse in any case."""
WINDOW = 30.0
THREADS_EACH = 4
"""Threads of one window; more of them help little."""


class WhisperOptions(EngineOptions):
    """The ``options`` of a catalogue row."""

    beam_size: int = Field(default=5, ge=1, le=32)
    compute_type: str = Field(
        default="default",
        pattern=r"^[a-z0-9_]+$",
        description="numbers to compute with, such as float32; by default int8 on a CPU, else those of the file",
    )
    max_audio_seconds: float = Field(default=7200.0, gt=0)
    vad: bool = Field(default=True, description="skip what holds no speech, unless the request decides")

    def needed(self, folder: Path) -> tuple[str, ...]:
        del folder
        return _FILES


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run the worker; see ``backends.workers.spec.EngineEntryPoint``. Raises as ``load`` does."""
    serve_engine(spec, WhisperEngine(spec), ready)


class WhisperEngine:
    """Transcribes up to ``slots`` files concurrently. CTranslate2 queues their calls, a window or less each, so
    that a short file does not wait for the end of hours.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._at_once = max(1, min(spec.slots, spec.threads // THREADS_EACH))
        self._runner = ThreadRunner(spec.slots)

    @property
    def stats(self) -> WorkerStats:
        return self._runner.stats

    def load(self) -> None:
        self._options = read_options(WhisperOptions, "whisper", self._spec.options)
        folder = Path(self._spec.path or "")
        for name in _FILES:
            if not (folder / name).is_file():
                raise ModelUnavailable(f"The model file {name} is missing. Pull the model again.")
        self._model = self._open(folder)
        self._tokenizer = TextTokenizer(
            folder / "tokenizer.json", model=self._spec.model_id, max_tokens=int(self._model.max_length)
        )
        self._languages = frozenset(self._model.supported_languages)

    def close(self) -> None:
        self._runner.close()

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/v1/audio/transcriptions", self._transcriptions, methods=["POST"]),
            Route("/v1/audio/translations", self._transcriptions, methods=["POST"]),
            *token_routes(lambda: self._tokenizer),
        ]

    def _open(self, folder: Path) -> WhisperModel:
        try:
            import av  # noqa: F401
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise EngineMissing("whisper", extra="speech", package=error.name) from None

        kind, _, number = self._spec.device.partition(":")
        numbers = self._options.compute_type
        if kind == "cpu" and numbers == "default":
            numbers = "int8"  # near enough the same words, in two thirds of the time and a third of the memory
        try:
            return WhisperModel(
                str(folder),
                device=kind,
                device_index=int(number or 0),
                compute_type=numbers,
                cpu_threads=max(1, self._spec.threads // self._at_once),
                num_workers=self._at_once,
                local_files_only=True,
            )
        except (RuntimeError, ValueError) as error:
            raise ModelUnavailable(f"CTranslate2 cannot run '{self._spec.model_id}': {error}") from error

    async def _transcriptions(self, http: Request) -> Response:
        request = await read_form(http)
        spoken = self._spoken(request)
        unused = [*(request.model_extra or {})]
        if request.prompt and len(self._model.hf_tokenizer.encode(request.prompt).ids) > self._prompt_room:
            unused.append("prompt: all but its end")

        def produce(cancel: CancelSignal) -> Generator[Json, None, None]:
            yield from self._events(request, spoken, cancel)

        return await answer_events(http, self._runner, produce, unused=unused)

    @property
    def _prompt_room(self) -> int:
        """Tokens of a prompt that Whisper uses: half its text window, less one."""
        return int(self._model.max_length) // 2 - 1

    def _spoken(self, request: TranscriptionRequest) -> tuple[str, ...]:
        """Return Whisper's codes of the languages that may be spoken; none: all that the model knows.

        Raises UnsupportedParameter for a language that the model does not know, CapabilityMismatch for a
        translation by an English-only model.
        """
        english_only = not self._model.model.is_multilingual
        if request.translate and english_only:
            raise CapabilityMismatch(
                f"'{self._spec.model_id}' knows English only, so it cannot translate into it.", param="model"
            )
        named = "languages" if request.language is None else "language"
        codes = []
        for tag in request.languages if request.language is None else (request.language,):
            code = language_of(tag)
            if code not in self._languages:
                known = "English only" if english_only else f"{len(self._languages)} languages"
                raise UnsupportedValue(
                    f"'{self._spec.model_id}' knows {known}; {tag!r} is not among them.", param=named
                )
            codes.append(code)
        return ("en",) if english_only else tuple(dict.fromkeys(codes))

    def _detected(self, model: WhisperModel, audio: Samples, spoken: tuple[str, ...]) -> tuple[str, float]:
        """The language of the beginning of a piece among those that may be spoken, and its probability."""
        _, _, likely = model.detect_language(audio)
        among = [(code, float(share)) for code, share in likely if code in spoken]
        code, share = max(among, key=lambda each: each[1])
        return code, share / (sum(each for _, each in among) or 1.0)

    def _events(
        self, request: TranscriptionRequest, spoken: tuple[str, ...], cancel: CancelSignal
    ) -> Generator[Json, None, None]:
        model = copy.copy(self._model)  # shares the weights, with this request's cancellation
        model.model = whole = _CancellableModel(self._model.model, cancel)
        told = Transcript(request, whole=length_of(request.file))
        told.language = spoken[0] if len(spoken) == 1 else None
        pieces = decode_pieces(
            request.file,
            rate=_RATE,
            max_seconds=self._options.max_audio_seconds,
            check=cancel.check,
            first=FIRST,
            seconds=PIECE,
            quiet=QUIET,
        )
        for audio in pieces:
            yield from told.begin_piece()
            short = len(audio) / _RATE + SPARE < WINDOW and not (request.temperature or request.translate)
            model.model = _ShortWindow(whole) if short and self._spec.device == "cpu" else whole
            found, info = self._decoded(model, audio, request, spoken, told)
            for segment in found:
                if told.language is None and (info[1] or 0.0) >= SURE:  # else it is heard anew in the next piece
                    told.language, told.probability = info
                told.words += [_word(word, after=told.duration) for word in segment.words or ()]
                yield told.add(
                    segment.text, _segment(segment, number=len(told.segments), after=told.duration), segment.end
                )
                cancel.check()
            if told.language is None and (info[1] or 0.0) > (told.guess[1] or 0.0):
                told.guess = info
            told.duration += len(audio) / _RATE
        yield told.done()

    def _decoded(
        self,
        model: WhisperModel,
        audio: Samples,
        request: TranscriptionRequest,
        spoken: tuple[str, ...],
        told: Transcript,
    ) -> tuple[Iterable[Segment], tuple[str | None, float | None]]:
        """The segments of a piece as they are decoded, and its language with the probability of that.

        Both are empty for a piece without speech whose language is not known, if such pieces are skipped.
        """
        language, share = told.language, told.probability
        short = isinstance(model.model, _ShortWindow)
        skips = self._options.vad if request.vad_filter is None else request.vad_filter
        begins = _speech_begins(audio) if skips else 0
        if begins is None:
            return (), (language, share)
        if language is None and spoken:
            language, share = self._detected(model, audio[begins:], spoken)
        found, info = model.transcribe(
            audio,
            language=language,
            task="translate" if request.translate else "transcribe",
            beam_size=self._options.beam_size,
            temperature=[request.temperature] if request.temperature else [0.0, *_LADDER][not short :],
            initial_prompt=told.text[-PROMPT_CHARACTERS:] or request.prompt,
            hotwords=", ".join(request.keywords) or None,
            word_timestamps=told.with_words,
            vad_filter=skips,
            vad_parameters=dict(SPEECH) if skips else None,
        )
        return found, (language, share) if language is not None else (info.language, info.language_probability)


def _speech_begins(audio: Samples) -> int | None:
    """The first sample of speech at 16 kHz, None if there is none: Whisper writes words for silence, slowly."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    found = get_speech_timestamps(audio, VadOptions(**SPEECH))
    return int(found[0]["start"]) if found else None


class _CancellableModel:
    """A proxy of CTranslate2's model that checks for cancellation at every use.

    Each window of 30 seconds is encoded once and decoded at up to six temperatures; work can end between these
    calls.
    """

    def __init__(self, model: Any, cancel: CancelSignal) -> None:
        self._model = model
        self._cancel = cancel

    def __getattr__(self, name: str) -> Any:
        self._cancel.check()
        return getattr(self._model, name)


class _ShortWindow:
    """A proxy of CTranslate2's model that leaves out most of the silence behind a short file.

    The first decoding of a window is of the short encoding. Where faster-whisper asks for another, as the text was
    repetitive or improbable, the window is encoded whole, and decoded so from then on.
    """

    def __init__(self, model: _CancellableModel) -> None:
        self._model = model
        self._whole: StorageView | None = None
        self._encoded: StorageView | None = None
        self._tried = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, features: StorageView, *, to_cpu: bool = False) -> Any:
        """Encode features of shape (1, mels, frames), less the zeros beyond the spare ones."""
        self._tried, self._whole, self._encoded = False, None, None
        values = np.asarray(features)
        content = np.flatnonzero(values.any(axis=(0, 1)))
        frames = (int(content[-1]) + 1 if content.size else 0) + int(SPARE * _FRAMES_A_SECOND)
        if frames >= values.shape[-1]:
            return self._model.encode(features, to_cpu=to_cpu)
        self._whole = features
        short = type(features).from_array(np.ascontiguousarray(values[..., :frames]))
        return self._model.encode(short, to_cpu=to_cpu)

    def generate(self, encoded: StorageView, *args: Any, **options: Any) -> Any:
        """Decode the short encoding, from the second time on the whole one."""
        if self._tried and self._whole is not None:
            self._encoded, self._whole = self._model.encode(self._whole), None
        if self._encoded is not None:
            encoded = self._encoded
        self._tried = True
        return self._model.generate(encoded, *args, **options)


def _word(word: Word, *, after: float) -> Json:
    return {
        "word": word.word.strip(),
        "start": round(after + word.start, 3),
        "end": round(after + word.end, 3),
    }


def _segment(segment: Segment, *, number: int, after: float) -> Json:
    """Make OpenAI's segment object; times in seconds, ``after`` those of earlier pieces, natural logarithms."""
    return {
        "id": number,
        "seek": segment.seek + round(after * _FRAMES_A_SECOND),
        "start": round(after + segment.start, 3),
        "end": round(after + segment.end, 3),
        "text": segment.text,
        "tokens": segment.tokens,
        "temperature": segment.temperature,
        "avg_logprob": _finite(segment.avg_logprob),
        "compression_ratio": _finite(segment.compression_ratio),
        "no_speech_prob": _finite(segment.no_speech_prob),
    }


def _finite(value: float | None) -> float:
    return float(value) if value is not None and math.isfinite(value) else 0.0
