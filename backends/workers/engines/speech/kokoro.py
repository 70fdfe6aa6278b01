"""Kokoro's voices on ONNX Runtime: a folder with the graph and a file of voice styles.

Source of the inputs and of the alphabet: Kokoro-82M's ``config.json`` and its library (Apache-2.0).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.voices import kokoro_voice
from backends.workers.engines.common.audio import Samples
from backends.workers.engines.speech.phonemes.languages import readers
from backends.workers.engines.speech.phonemes.words import Piece, Reader, phonemes_of, pieces
from backends.workers.engines.speech.reading import check_length, readable
from backends.workers.engines.speech.voices import Speech, TimedWord, Voice
from catalog.errors import EngineMissing, ModelUnavailable
from catalog.installing import install_command

_SENTENCE_END = re.compile(
    r"(?<=[.!?\u2026])[\"'\u201d\u2019)\]]*\s+|(?<=[\u3002\uff01\uff1f])|\n+|(?<=\u0964)\s*"
)
_TITLE = re.compile(r"(?:^|[\s(])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Sra|Mme|Mlle|vs|etc|Inc|No)\.$")

FRAME = 600
"""Samples of a frame, 25 ms: the unit of ``duration``."""
_SILENT = 0.006
"""Amplitude below which the ends of a piece are cut off."""
_PAUSES = {**dict.fromkeys(".!?\u2026", 0.35), **dict.fromkeys(",;:\u2014", 0.12)}
_SHORT = 0.04
"""Seconds of silence between two pieces, by the mark between them, and without one."""

_IDS: Mapping[str, int] = {
    ";": 1, ":": 2, ",": 3, ".": 4, "!": 5, "?": 6, "\u2014": 9, "\u2026": 10, '"': 11, "(": 12, ")": 13,
    "\u201c": 14, "\u201d": 15, " ": 16, "\u0303": 17, "ʣ": 18, "ʥ": 19, "ʦ": 20, "ʨ": 21, "ᵝ": 22,
    "\uab67": 23, "A": 24, "I": 25, "O": 31, "Q": 33, "S": 35, "T": 36, "W": 39, "Y": 41, "ᵊ": 42, "a": 43,
    "b": 44, "c": 45, "d": 46, "e": 47, "f": 48, "h": 50, "i": 51, "j": 52, "k": 53, "l": 54, "m": 55,
    "n": 56, "o": 57, "p": 58, "q": 59, "r": 60, "s": 61, "t": 62, "u": 63, "v": 64, "w": 65, "x": 66,
    "y": 67, "z": 68, "ɑ": 69, "ɐ": 70, "ɒ": 71, "æ": 72, "β": 75, "ɔ": 76, "ɕ": 77, "ç": 78, "ɖ": 80,
    "ð": 81, "ʤ": 82, "ə": 83, "ɚ": 85, "ɛ": 86, "ɜ": 87, "ɟ": 90, "ɡ": 92, "ɥ": 99, "ɨ": 101, "ɪ": 102,
    "ʝ": 103, "ɯ": 110, "ɰ": 111, "ŋ": 112, "ɳ": 113, "ɲ": 114, "ɴ": 115, "ø": 116, "ɸ": 118, "θ": 119,
    "œ": 120, "ɹ": 123, "ɾ": 125, "ɻ": 126, "ʁ": 128, "ɽ": 129, "ʂ": 130, "ʃ": 131, "ʈ": 132, "ʧ": 133,
    "ʊ": 135, "ʋ": 136, "ʌ": 138, "ɣ": 139, "ɤ": 140, "χ": 142, "ʎ": 143, "ʒ": 147, "ʔ": 148, "ˈ": 156,
    "ˌ": 157, "ː": 158, "ʰ": 162, "ʲ": 164, "↓": 169, "→": 171, "↗": 172, "↘": 173, "ᵻ": 177,
}  # fmt: skip
"""The ids of Kokoro v1.0's phonemes, ``vocab`` of its config.json."""


class KokoroVoices:
    """All voices of the styles file whose language can be read here."""

    sample_rate = 24_000
    speeds = (0.5, 2.0)
    blends = True

    def __init__(self, folder: Path, *, file: str, styles: str, threads: int) -> None:
        for name in (file, styles):
            if not (folder / name).is_file():
                raise ModelUnavailable(f"The model file {name} is missing. Pull the model again.")
        self._graph = Graph(folder / file, threads=threads)
        self.timed = self._graph.timed
        self._styles = Styles(folder / styles)
        self._readers: Mapping[str, Reader] = readers()
        self.voices: Sequence[Voice] = tuple(
            voice for voice in map(_voice, self._styles.names) if voice.languages[0] in self._readers
        )
        read = {voice.name for voice in self.voices}
        self.unread: Mapping[str, str] = {
            name: install_command("japanese") for name in self._styles.names if name not in read
        }
        if not self.voices:
            raise ModelUnavailable(f"No voice of {styles} speaks a language that can be read here.")

    def read(self, text: str, *, language: str) -> Sequence[Piece]:
        """See :class:`Synthesizer`."""
        read = [self._readers[language](sentence) for sentence in sentences_of(readable(text))]
        check_length(text, map(phonemes_of, read))
        return list(chain.from_iterable(map(pieces, read)))

    def speak(self, piece: Piece, voice: Voice, *, speed: float) -> Speech:
        """See :class:`Synthesizer`."""
        ids, places = _laid_out(piece)
        if not ids:
            return Speech(np.zeros(0, np.float32))
        samples, frames = self._graph.run(ids, self._style(voice), speed)
        head, tail = heard(samples)
        words: tuple[TimedWord, ...] = ()
        if frames is not None:
            starts = np.concatenate(([0], np.cumsum(frames))) * FRAME - head  # before the silence, then each id
            length = tail - head
            words = tuple(
                TimedWord(word, *(float(np.clip(starts[n + 1], 0, length)) / self.sample_rate for n in place))
                for word, place in places
            )
        return Speech(samples[head:tail], pause=_PAUSES.get(_last(piece), _SHORT) / speed, words=words)

    def _style(self, voice: Voice) -> NDArray[np.float32]:
        if not voice.parts:
            return self._styles[voice.name]
        rows = min(len(self._styles[name]) for name, _ in voice.parts)
        mixed = sum(share * self._styles[name][:rows] for name, share in voice.parts)
        return np.asarray(mixed, np.float32)


class Graph:
    """Kokoro's network. Its calls are thread-safe."""

    def __init__(self, path: Path, *, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise EngineMissing("speech", extra="speech", package="onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no type
            raise ModelUnavailable(f"{path.name} cannot be opened: {str(error)[:200]}") from error
        kinds = {each.name: each.type for each in self._session.get_inputs()}
        self._tokens = "tokens" if "tokens" in kinds else "input_ids"  # names of older and newer exports
        self._speed = np.int32 if "int32" in kinds.get("speed", "") else np.float32
        self.timed = len(self._session.get_outputs()) > 1
        if not {self._tokens, "style", "speed"} <= set(kinds):
            raise ModelUnavailable(f"{path.name} is no graph of Kokoro: its inputs are {', '.join(kinds)}.")

    def run(
        self, ids: Sequence[int], style: NDArray[np.float32], speed: float
    ) -> tuple[Samples, NDArray[np.int64] | None]:
        """The samples of one piece, and the frames of its ids and of the silence at both ends, if it tells them.

        ``ids`` are 510 at most; ``style`` is ``[510, 1, 256]``.
        """
        row = style[min(len(ids), len(style)) - 1].reshape(1, -1)
        inputs: dict[str, Any] = {
            self._tokens: np.asarray([[0, *ids, 0]], np.int64),
            "style": row.astype(np.float32),
            "speed": np.asarray([max(speed, 1) if self._speed is np.int32 else speed], self._speed),
        }
        outputs = self._session.run(None, inputs)
        frames = np.asarray(outputs[1]).reshape(-1) if self.timed else None
        return np.asarray(outputs[0], np.float32).reshape(-1), frames


class Styles:
    """The style vectors of a file, by voice: numpy's npz, read when a voice first speaks."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = np.load(path, allow_pickle=False)
            self.names: Sequence[str] = tuple(self._file.files)
        except (OSError, ValueError, AttributeError) as error:
            raise ModelUnavailable(f"{path.name} holds no voices that can be read: {error}") from error
        self._read: dict[str, NDArray[np.float32]] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """The vectors of a voice, ``[rows, 1, 256]``, a row per count of phonemes."""
        with self._lock:
            if name not in self._read:
                self._read[name] = np.asarray(self._file[name], np.float32).reshape(-1, 1, 256)
            return self._read[name]


def sentences_of(text: str) -> list[str]:
    """Split a text after its sentences and lines; a full stop after a title or an initial ends none."""
    found: list[str] = []
    held = ""
    for part in _SENTENCE_END.split(text):
        part = f"{held} {part}".strip() if held else part.strip()
        held = part if _TITLE.search(part) else ""
        if part and not held:
            found.append(part)
    return [*found, held] if held else found


def ids_of(phonemes: str) -> list[int]:
    """The ids of phonemes; those that the model does not know are left out."""
    return [id_ for id_ in map(_IDS.get, phonemes) if id_ is not None]


def heard(audio: Samples) -> tuple[int, int]:
    """Where sound begins and ends, with 20 ms before and 60 ms after it; both are 0 for silence."""
    loud = np.flatnonzero(np.abs(audio) > _SILENT)
    if not len(loud):
        return 0, 0
    return max(0, int(loud[0]) - 480), min(len(audio), int(loud[-1]) + 1440)


def _laid_out(piece: Piece) -> tuple[list[int], list[tuple[str, tuple[int, int]]]]:
    """The ids of a piece, and the place of each word among them."""
    ids: list[int] = []
    places: list[tuple[str, tuple[int, int]]] = []
    for n, word in enumerate(piece):
        own = ids_of(word.phonemes)
        if word.text and own and any(character.isalnum() for character in word.text):
            places.append((word.text, (len(ids), len(ids) + len(own))))
        ids += own
        if word.space and n + 1 < len(piece):
            ids += ids_of(" ")
    return ids, places


def _last(piece: Piece) -> str:
    """The mark at the end of a piece, empty without one; closing quotation marks do not count."""
    return phonemes_of(piece).rstrip('"\u201d) ')[-1:]


def _voice(name: str) -> Voice:
    language, gender = kokoro_voice(name) or ("en-US", None)
    return Voice(name, (language,), gender)
