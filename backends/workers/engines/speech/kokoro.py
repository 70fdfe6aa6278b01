"""Kokoro's voices with ``kokoro-onnx``: a folder with the graph and a file of voice styles."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from backends.workers.engines.common.audio import Samples
from backends.workers.engines.speech.reading import check_length, pieces
from backends.workers.engines.speech.voices import Voice
from catalog.errors import EngineMissing, ModelUnavailable

_LANGUAGES = {
    "a": ("en-US", "en-us"), "b": ("en-GB", "en-gb"), "e": ("es", "es"), "f": ("fr", "fr-fr"), "h": ("hi", "hi"),
    "i": ("it", "it"), "j": ("ja", "ja"), "p": ("pt-BR", "pt-br"), "z": ("zh", "cmn"),
}  # fmt: skip
"""By the first letter of a voice's name: its language, and espeak's name for it. Source: Kokoro's VOICES.md."""

_GENDERS = {"f": "female", "m": "male"}
_SENTENCE_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f\u2026])\s+|\n+")


class KokoroVoices:
    """All voices of the styles file."""

    sample_rate = 24_000
    speeds = (0.5, 2.0)

    def __init__(self, folder: Path, *, file: str, styles: str) -> None:
        try:
            from kokoro_onnx import Kokoro
        except ImportError:
            raise EngineMissing("speech", extra="speech", package="kokoro-onnx") from None
        for name in (file, styles):
            if not (folder / name).is_file():
                raise ModelUnavailable(f"The model file {name} is missing. Pull the model again.")
        self._kokoro = Kokoro(str(folder / file), str(folder / styles))
        self._espeak = threading.Lock()
        self.voices: Sequence[Voice] = tuple(_voice(name) for name in self._kokoro.get_voices())

    def sentences(self, text: str, voice: Voice, *, language: str, speed: float) -> Iterator[Samples]:
        """See :class:`Synthesizer`. A lock guards espeak, which makes the phonemes and is not thread-safe."""
        espeak = next(name for tag, name in _LANGUAGES.values() if tag == language)
        phonemes = [self._phonemes(sentence, espeak) for sentence in _SENTENCE_END.split(text) if sentence.strip()]
        check_length(text, phonemes)
        for piece in chain.from_iterable(map(pieces, phonemes)):
            samples, _ = self._kokoro.create(piece, voice.name, speed, espeak, is_phonemes=True)
            yield np.asarray(samples, np.float32)

    def _phonemes(self, sentence: str, language: str) -> str:
        with self._espeak:
            return str(self._kokoro.tokenizer.phonemize(sentence, language))


def _voice(name: str) -> Voice:
    language, _ = _LANGUAGES.get(name[:1], _LANGUAGES["a"])
    return Voice(name, (language,), _GENDERS.get(name[1:2]))
