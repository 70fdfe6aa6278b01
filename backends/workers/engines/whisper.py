"""Engine ``whisper``: speech to text with faster-whisper (CTranslate2).

A model is a folder in CTranslate2's format (``model.bin``, ``config.json``, ``tokenizer.json``). The response is
always a stream of events: a delta per segment, then ``transcript.text.done`` with all fields of OpenAI's
verbose_json. A disconnect ends the work before the next call of CTranslate2, which cannot be interrupted within
one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.wire.audio import MAX_TERMS, TranscriptionRequest
from backends.workers.engines.common.audio import decode_pieces
from backends.workers.engines.common.options import EngineOptions, read_options
from backends.workers.engines.common.text_tokenizer import TextTokenizer
from backends.workers.engines.common.token_routes import token_routes
from backends.workers.program.app import dropped, invalid_request, serve_engine, sse_event, stream_response
from backends.workers.program.threads import CancelSignal, ThreadRunner, WorkerStats
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import (
    CapabilityMismatch,
    EngineMissing,
    InvalidRequest,
    ModelUnavailable,
    UnsupportedMediaType,
    UnsupportedParameter,
)
from catalog.types import Json

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.transcribe import Segment


_RATE = 16_000
_FRAMES_A_SECOND = 100
_LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Temperatures tried in turn while the text is repetitive or improbable (OpenAI's default)."""


_FILES = ("model.bin", "tokenizer.json")
PIECE, QUIET = 300.0, 20.0
"""Seconds of audio in memory at a time (2 hours at once took 5.5 GB), and those at its end in which the quietest
moment is the cut."""
PROMPT_CHARACTERS = 200
"""Of a piece's text that the next one is prompted with; within a piece Whisper does so by itself."""
THREADS_EACH = 4
"""Threads of one window; more of them help little."""


class WhisperOptions(EngineOptions):
    """The ``options`` of a catalogue row."""

    beam_size: int = Field(default=5, ge=1, le=32)
    compute_type: str = Field(default="default", pattern=r"^[a-z0-9_]+$")
    max_audio_seconds: float = Field(default=7200.0, gt=0)
    vad: bool = Field(default=False, description="skip silence, unless the request decides")

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
            *token_routes(lambda: self._tokenizer),
        ]

    def _open(self, folder: Path) -> WhisperModel:
        try:
            import av  # noqa: F401
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise EngineMissing("whisper", extra="speech", package=error.name) from None

        kind, _, number = self._spec.device.partition(":")
        try:
            return WhisperModel(
                str(folder),
                device=kind,
                device_index=int(number or 0),
                compute_type=self._options.compute_type,
                cpu_threads=max(1, self._spec.threads // self._at_once),
                num_workers=self._at_once,
                local_files_only=True,
            )
        except (RuntimeError, ValueError) as error:
            raise ModelUnavailable(f"CTranslate2 cannot run '{self._spec.model_id}': {error}") from error

    async def _transcriptions(self, http: Request) -> Response:
        request = await _form(http)
        language = self._language(request)
        unused = [*(request.model_extra or {})]
        if request.prompt and len(self._model.hf_tokenizer.encode(request.prompt).ids) > self._prompt_room:
            unused.append("prompt: all but its end")

        def produce(cancel: CancelSignal) -> Generator[Json, None, None]:
            yield from self._events(request, language, cancel)

        async def events() -> AsyncGenerator[bytes, None]:
            async with aclosing(self._runner.stream(produce)) as bodies:
                async for body in bodies:
                    yield sse_event(body)

        return await stream_response(http, events(), media_type="text/event-stream", headers=dropped(unused))

    @property
    def _prompt_room(self) -> int:
        """Tokens of a prompt that Whisper uses: half its text window, less one."""
        return int(self._model.max_length) // 2 - 1

    def _language(self, request: TranscriptionRequest) -> str | None:
        """Return Whisper's code of the requested language.

        Raises UnsupportedParameter for a language that the model does not know, CapabilityMismatch for a
        translation by an English-only model.
        """
        english_only = not self._model.model.is_multilingual
        if request.translate and english_only:
            raise CapabilityMismatch(
                f"'{self._spec.model_id}' knows English only, so it cannot translate into it.", param="model"
            )
        if request.language is None:
            return None
        code = request.language.lower().split("-")[0]
        if code not in self._languages:
            known = "English only" if english_only else f"{len(self._languages)} languages"
            raise UnsupportedParameter(
                f"'{self._spec.model_id}' knows {known}; {request.language!r} is not among them.", param="language"
            )
        return code

    def _events(
        self, request: TranscriptionRequest, language: str | None, cancel: CancelSignal
    ) -> Generator[Json, None, None]:
        with_words = "word" in request.timestamp_granularities
        vad = self._options.vad if request.vad_filter is None else request.vad_filter
        model = copy.copy(self._model)  # shares the weights, with this request's cancellation
        model.model = _CancellableModel(self._model.model, cancel)
        segments: list[Json] = []
        words: list[Json] = []
        text, duration = "", 0.0
        pieces = decode_pieces(
            request.file,
            rate=_RATE,
            max_seconds=self._options.max_audio_seconds,
            check=cancel.check,
            seconds=PIECE,
            quiet=QUIET,
        )
        for audio in pieces:
            if duration:  # a sign of life for a caller of hours of silence
                yield {"type": "transcript.text.delta", "delta": ""}
            found, info = model.transcribe(
                audio,
                language=language,
                task="translate" if request.translate else "transcribe",
                beam_size=self._options.beam_size,
                temperature=[request.temperature] if request.temperature else list(_LADDER),
                initial_prompt=text[-PROMPT_CHARACTERS:] or request.prompt,
                hotwords=", ".join(request.keywords) or None,
                word_timestamps=with_words,
                vad_filter=vad,
            )
            language = language or info.language
            for segment in found:
                delta = segment.text if text else segment.text.lstrip()
                text += delta
                segments.append(_segment(segment, number=len(segments), after=duration))
                words += [
                    {
                        "word": word.word.strip(),
                        "start": round(duration + word.start, 3),
                        "end": round(duration + word.end, 3),
                    }
                    for word in segment.words or ()
                ]
                yield {"type": "transcript.text.delta", "delta": delta}
                cancel.check()
            duration += len(audio) / _RATE
        yield {
            "type": "transcript.text.done",
            "text": text,
            "task": "translate" if request.translate else "transcribe",
            "language": language,
            "duration": round(duration, 3),
            "segments": segments,
            **({"words": words} if with_words else {}),
            "usage": {"type": "duration", "seconds": round(duration, 3)},
        }


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


async def _form(http: Request) -> TranscriptionRequest:
    """Read the multipart form. Raises InvalidRequest."""
    if not http.headers.get("content-type", "").startswith("multipart/form-data"):
        raise UnsupportedMediaType("A transcription is asked for with multipart/form-data.")
    fields: Json = {}
    listed: dict[str, list[str]] = {"timestamp_granularities": [], "keywords": []}
    async with http.form(max_files=1, max_fields=64 + MAX_TERMS) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                fields[name] = await value.read()
                fields["filename"] = value.filename or "audio"
            elif name.removesuffix("[]") in listed:
                listed[name.removesuffix("[]")].append(value)
            else:
                fields[name.removesuffix("[]")] = value
    fields |= {name: tuple(values) for name, values in listed.items() if values}
    if not isinstance(fields.get("file"), bytes):
        raise InvalidRequest("The form has no file.", param="file")
    try:
        return TranscriptionRequest.model_validate(fields, strict=False)
    except ValidationError as error:
        raise invalid_request(error) from None


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
