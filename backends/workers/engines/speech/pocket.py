"""Pocket TTS (Kyutai, MIT): speaks with the voice of a short recording, on a CPU. One language per model.

A folder holds ``model.safetensors``, a tokenizer, and voices as ``embeddings/*.safetensors``, itself or in
``languages/LANGUAGE`` as in Kyutai's repositories. The network's dimensions are those of the library's own
configuration for the language, or of a ``config.yaml`` in the folder.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from backends.workers.engines.common.audio import decode
from backends.workers.engines.speech.kokoro import sentences_of
from backends.workers.engines.speech.phonemes.words import Piece, Word, phonemes_of, pieces
from backends.workers.engines.speech.voices import NO_VOICES, Speech, Voice
from catalog.errors import EngineMissing, InvalidRequest, ModelUnavailable

WEIGHTS, CONFIG = "model.safetensors", "config.yaml"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_CODES = {
    "english": "en", "french": "fr", "german": "de", "italian": "it", "portuguese": "pt", "spanish": "es",
    "dutch": "nl",
}  # fmt: skip
CHARACTERS_A_PIECE = 240
"""Characters of one call, about 15 s of speech: the network was trained on 50 tokens at a time."""
SHORTEST, LONGEST, CUT = 1.0, 120.0, 30.0
"""Seconds of a recording: at least, at most, and those at its beginning that are used, as by the library."""
_KEPT = 16
"""Voices of recordings that stay in memory."""
_PAUSE = 0.15


class PocketVoices:
    """The voices of the folder, and those of recordings. The library's calls are made one at a time."""

    speeds = (1.0, 1.0)
    blends = False
    unread = NO_VOICES
    timed = False

    def __init__(self, folder: Path, *, language: str, threads: int) -> None:
        try:
            import pocket_tts
            import torch
        except ImportError:
            raise EngineMissing("speech", extra="clone", package="pocket-tts") from None
        places = (folder, folder / "languages" / language)
        place = next((each for each in places if (each / WEIGHTS).is_file()), None)

        if place is None:
            raise ModelUnavailable(f"The model file {WEIGHTS} is missing. Pull the model again.")
        torch.set_num_threads(threads)
        self._torch = torch
        self._lock = threading.Lock()
        self._model = _opened(pocket_tts.TTSModel, place, _configuration(place, language))
        self.sample_rate = int(self._model.sample_rate)
        self.language = _CODES.get(language.partition("_")[0], "en")
        self._files = {path.stem: path for path in sorted((place / "embeddings").glob("*.safetensors"))}
        self._states: OrderedDict[str, Any] = OrderedDict()
        self.voices: Sequence[Voice] = tuple(Voice(name, (self.language,)) for name in self._files)

    def read(self, text: str, *, language: str) -> Sequence[Piece]:
        """See :class:`Synthesizer`. The model reads letters, so they are its phonemes."""
        del language
        read = [[Word(word, word) for word in sentence.split()] for sentence in sentences_of(text)]
        spoken = [words for words in read if any(character.isalnum() for word in words for character in word.text)]
        return list(chain.from_iterable(pieces(words, CHARACTERS_A_PIECE) for words in spoken))

    def speak(self, piece: Piece, voice: Voice, *, speed: float) -> Speech:
        """See :class:`Synthesizer`."""
        del speed
        with self._lock:
            state = self._state(voice)
            self._torch.manual_seed(0)
            chunks = list(self._model.generate_audio_stream(state, phonemes_of(piece), copy_state=True))
        made = [np.asarray(chunk, np.float32).reshape(-1) for chunk in chunks]
        return Speech(np.concatenate(made) if made else np.zeros(0, np.float32), pause=_PAUSE)

    def clone(self, recording: bytes) -> Voice:
        """See :class:`Cloner`."""
        name = hashlib.sha256(recording).hexdigest()
        with self._lock:
            if name not in self._states:
                self._keep(name, self._heard(recording))
        return Voice(name, (self.language,))

    def _heard(self, recording: bytes) -> Any:
        samples = decode(recording, rate=self.sample_rate, max_seconds=LONGEST, check=lambda: None)
        samples = samples[: int(CUT * self.sample_rate)]
        if len(samples) < SHORTEST * self.sample_rate:
            raise InvalidRequest(f"The recording of a voice must last {SHORTEST:g} s at least.", param="voice")
        return self._model.get_state_for_audio_prompt(self._torch.from_numpy(samples.copy()).unsqueeze(0))

    def _state(self, voice: Voice) -> Any:
        if voice.name in self._states:
            self._states.move_to_end(voice.name)
        else:
            self._keep(voice.name, self._model.get_state_for_audio_prompt(self._files[voice.name]))
        return self._states[voice.name]

    def _keep(self, name: str, state: Any) -> None:
        self._states[name] = state
        while len(self._states) > _KEPT:
            self._states.popitem(last=False)


def _configuration(folder: Path, language: str) -> dict[str, Any]:
    """The library's configuration, with the files of the folder in place of its addresses at the hub."""
    import yaml
    from pocket_tts.utils.config import CONFIGS_DIR

    own, packaged = folder / CONFIG, Path(CONFIGS_DIR) / f"{language}.yaml"
    path = own if own.is_file() else packaged
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in Path(CONFIGS_DIR).glob("*.yaml")))
        raise ModelUnavailable(f"Pocket TTS has no language {language!r}. It has: {known}.")
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    found |= {"weights_path": str(folder / WEIGHTS), "weights_path_without_voice_cloning": None}
    tokenizer = next((folder / name for name in _TOKENIZERS if (folder / name).is_file()), None)
    if tokenizer is None:
        raise ModelUnavailable(f"The model has none of {', '.join(_TOKENIZERS)}. Pull the model again.")
    table = found["flow_lm"]["lookup_table"]
    table |= {
        "tokenizer_path": str(tokenizer),
        "tokenizer": "sentencepiece" if tokenizer.suffix == ".model" else "tokenizers",
    }
    return found


def _opened(library: Any, folder: Path, configuration: dict[str, Any]) -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        json.dump(configuration, file)  # JSON is YAML
        file.flush()
        try:
            return library.load_model(config=file.name)
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelUnavailable(f"{folder.name} is no model of Pocket TTS: {str(error)[:300]}") from error
