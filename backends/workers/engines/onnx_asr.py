"""Engine ``onnx-asr``: speech to text with NeMo's Parakeet and Canary, GigaAM, Vosk and others in ONNX.

A model is a folder as the package ``onnx-asr`` reads it: graphs, ``vocab.txt`` and perhaps ``config.json``. These
networks read a stretch of speech at once, far faster than Whisper and without inventing text in silence; they take
no prompt and no terms. The events are those of :mod:`backends.workers.engines.common.transcripts`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.wire.audio import TranscriptionRequest
from backends.workers.engines.common.audio import Samples, decode_pieces, length_of
from backends.workers.engines.common.options import EngineOptions, read_options
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

_RATE = 16_000
FIRST, PIECE, QUIET = 12.0, 24.0, 8.0
"""Seconds of speech that are read at once, and those at their end in which the quietest moment is the cut."""
_LAST_TOKEN = 0.24
"""Seconds that the last token of a word is taken to last at most."""
SILENCE = 1e-3
"""Amplitude below which nothing is heard (-60 dB): the networks normalise what they read, and write of noise."""
PAUSE = 1.0
"""Seconds without a word that end a segment."""
_ENDS = (".", "?", "!", "…", "。", "？", "！")  # noqa: RUF001 - full-width marks are intended
Architecture = Literal[
    "nemo-conformer-ctc", "nemo-conformer-rnnt", "nemo-conformer-tdt", "nemo-conformer-aed", "kaldi-rnnt",
    "t-one-ctc",
    "gigaam-v2-ctc", "gigaam-v2-rnnt", "gigaam-v3-e2e-ctc", "gigaam-v3-e2e-rnnt", "gigaam-multilingual-ctc",
]  # fmt: skip
_TOLD = "nemo-conformer-aed"
"""The architecture (Canary) that is told the language, and writes another one than is spoken."""


class OnnxAsrOptions(EngineOptions):
    """The ``options`` of a catalogue row."""

    model: Architecture = Field(default="nemo-conformer-tdt", description="architecture, by onnx-asr's names")
    quantization: str | None = Field(
        default=None, pattern=r"^[a-z0-9_]+$", description="graphs to open, as int8 of encoder-model.int8.onnx"
    )
    max_audio_seconds: float = Field(default=14_400.0, gt=0)

    def needed(self, folder: Path) -> tuple[str, ...]:
        del folder
        return ("vocab.txt",)


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run the worker; see ``backends.workers.spec.EngineEntryPoint``. Raises as ``load`` does."""
    serve_engine(spec, OnnxAsrEngine(spec), ready)


class OnnxAsrEngine:
    """Transcribes up to ``slots`` files, a stretch of each in turn."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._runner = ThreadRunner(spec.slots, threads=1)

    @property
    def stats(self) -> WorkerStats:
        return self._runner.stats

    def load(self) -> None:
        self._options = read_options(OnnxAsrOptions, "onnx-asr", self._spec.options)
        folder = Path(self._spec.path or "")
        try:
            import av  # noqa: F401
            import onnx_asr
            import onnxruntime
        except ImportError as error:
            raise EngineMissing("onnx-asr", extra="speech", package=error.name) from None

        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = self._spec.threads
        session.log_severity_level = 3
        cuda = ["CUDAExecutionProvider"] if self._spec.device.startswith("cuda") else []
        try:
            loaded = onnx_asr.load_model(
                self._options.model,
                folder,
                quantization=self._options.quantization,
                sess_options=session,
                providers=[*cuda, "CPUExecutionProvider"],
            )
            self._model: Any = loaded.with_timestamps()
            self._languages = _languages(folder / "vocab.txt")
        except Exception as error:  # those of the package and of ONNX Runtime have no common base
            raise ModelUnavailable(f"onnx-asr cannot run '{self._spec.model_id}': {str(error)[:300]}") from error

    def close(self) -> None:
        self._runner.close()

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/v1/audio/transcriptions", self._transcriptions, methods=["POST"]),
            Route("/v1/audio/translations", self._transcriptions, methods=["POST"]),
        ]

    async def _transcriptions(self, http: Request) -> Response:
        request = await read_form(http)
        asked = self._asked(request)
        unused = [*(request.model_extra or {})]
        unused += (name for name in ("prompt", "temperature", "keywords", "languages") if getattr(request, name))
        if request.language is not None and not asked:
            unused.append("language")  # it is heard from the sound

        def produce(cancel: CancelSignal) -> Generator[Json, None, None]:
            yield from self._events(request, asked, cancel)

        return await answer_events(http, self._runner, produce, unused=unused)

    def _asked(self, request: TranscriptionRequest) -> dict[str, str]:
        """The languages that the model is told; empty for one that hears them from the sound.

        Raises CapabilityMismatch for a translation by a model that writes what is spoken, UnsupportedParameter for
        a language that the model does not know.
        """
        if self._options.model != _TOLD:
            if request.translate:
                raise CapabilityMismatch(f"'{self._spec.model_id}' writes what is spoken.", param="model")
            return {}
        spoken = language_of(request.language or "en")
        if spoken not in self._languages:
            raise UnsupportedValue(
                f"'{self._spec.model_id}' knows {', '.join(sorted(self._languages))}; {request.language!r} is not "
                "among them.",
                param="language",
            )
        return {"language": spoken, "target_language": "en" if request.translate else spoken}

    def _events(
        self, request: TranscriptionRequest, asked: dict[str, str], cancel: CancelSignal
    ) -> Generator[Json, None, None]:
        told = Transcript(request, whole=length_of(request.file))
        told.language = asked.get("language")
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
            seconds = len(audio) / _RATE
            silent = float(np.abs(audio).max(initial=0.0)) < SILENCE
            for text, words, start, end in () if silent else self._segments(audio, asked, seconds):
                told.words += [_moved(word, told.duration) for word in words]
                segment: Json = {
                    "id": len(told.segments),
                    "seek": 0,
                    "start": round(told.duration + start, 3),
                    "end": round(told.duration + end, 3),
                    "text": f" {text}",
                    "tokens": [],
                    "temperature": 0.0,
                }
                yield told.add(f" {text}", segment, end)
            told.duration += seconds
            cancel.check()
        yield told.done()

    def _segments(
        self, audio: Samples, asked: dict[str, str], seconds: float
    ) -> Iterator[tuple[str, list[Json], float, float]]:
        """Text, words, start and end of each sentence of a stretch, in seconds of the stretch."""
        found = self._model.recognize(audio, sample_rate=_RATE, **asked)
        text = found.text.strip()
        if not text:
            return
        if not found.timestamps:
            yield text, [], 0.0, seconds
            return
        held: list[Json] = []
        for word in _words(found.tokens, found.timestamps, seconds):
            if held and (held[-1]["word"].endswith(_ENDS) or word["start"] - held[-1]["end"] > PAUSE):
                yield _sentence(held)
                held = []
            held.append(word)
        if held:
            yield _sentence(held)


def _sentence(words: list[Json]) -> tuple[str, list[Json], float, float]:
    return " ".join(word["word"] for word in words), words, words[0]["start"], words[-1]["end"]


def _words(tokens: Sequence[str], times: Sequence[float], seconds: float) -> Iterator[Json]:
    """Words of tokens, of which one that begins with a space begins a word; times are the tokens' beginnings."""
    text, start, last = "", 0.0, 0.0
    for token, time in zip(tokens, times, strict=True):
        if token.startswith(" ") and text.strip():
            yield {"word": text.strip(), "start": start, "end": min(last + _LAST_TOKEN, time)}
            text = ""
        if not text.strip():
            start = time
        text += token
        last = time
    if text.strip():
        yield {"word": text.strip(), "start": start, "end": min(last + _LAST_TOKEN, max(seconds, last))}


def _moved(word: Json, after: float) -> Json:
    return {**word, "start": round(after + word["start"], 3), "end": round(after + word["end"], 3)}


def _languages(vocabulary: Path) -> frozenset[str]:
    """The languages that a vocabulary has marks of, as Canary's ``<|de|>``."""
    marks = (line.split(" ")[0] for line in vocabulary.read_text(encoding="utf-8").splitlines())
    return frozenset(mark[2:-2] for mark in marks if len(mark) == 6 and mark[:2] == "<|" and mark[-2:] == "|>")
