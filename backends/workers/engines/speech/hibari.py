"""hibari's voices: a small English model with its own grapheme-to-phoneme rules, part of an installed library."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.workers.engines.common.audio import Samples
from backends.workers.engines.speech.reading import check_length, pieces, readable
from backends.workers.engines.speech.voices import Voice
from catalog.errors import EngineMissing, InvalidRequest

if TYPE_CHECKING:
    from hibari import Hibari

_AMERICAN, _BRITISH = "en-US", "en-GB"


class HibariVoices:
    """The voices on this machine; those that hibari would have to download are left out.

    The library contains one speaker (``heart``) and the pronunciation rules of two accents, which apply to any
    speaker: ``heart-british`` is the same speaker with British rules.
    """

    sample_rate = 24_000
    speeds = (0.5, 2.0)

    def __init__(self, *, threads: int) -> None:
        try:
            from hibari import Hibari
            from hibari.voices import VOICES, voice_path
        except ImportError:
            raise EngineMissing("speech", extra="speech", package="hibari-tts") from None
        self._speakers: dict[str, Hibari] = {}
        voices: list[Voice] = []
        for name, row in VOICES.items():
            try:
                path = voice_path(name, download_missing=False)
            except FileNotFoundError:
                continue
            self._speakers[name] = Hibari(name, path, threads)
            accents = (_BRITISH, _AMERICAN) if row["british"] else (_AMERICAN, _BRITISH)
            voices.append(Voice(name, accents, row["gender"]))
            other = f"{name}-american" if row["british"] else f"{name}-british"
            self._speakers[other] = self._speakers[name]
            voices.append(Voice(other, accents[::-1], row["gender"]))
        self.voices: Sequence[Voice] = tuple(voices)
        self._accents = {_AMERICAN: _Accent(british=False), _BRITISH: _Accent(british=True)}

    def sentences(self, text: str, voice: Voice, *, language: str, speed: float) -> Iterator[Samples]:
        """See :class:`Synthesizer`. The same text always gives the same samples."""
        speaker = self._speakers[voice.name]
        accent = self._accents[language]
        noise = np.random.default_rng(0)
        # All is read before anything is spoken, so that a text that cannot be read is refused as a whole.
        sentences = speaker.split_sentences(readable(text))
        phonemes = [each for sentence in sentences for each in accent.phonemes(speaker, sentence)]
        check_length(text, phonemes)
        for piece in chain.from_iterable(map(pieces, phonemes)):
            samples: Samples = speaker.from_ids(speaker.ids(piece), speed, noise)
            yield samples


class WholeWords:
    """Reads words that the dictionary lacks, in pieces: the net drops what is past its longest input."""

    def __init__(self, net: Any) -> None:
        self._net = net

    def __call__(self, word: str) -> str | None:
        longest = int(self._net.maxlen)
        pieces = -(-len(word) // longest)
        size = -(-len(word) // max(1, pieces))
        read = [self._net(word[start : start + size]) for start in range(0, len(word), max(1, size))]
        return " ".join(filter(None, read)) or None


class _Accent:
    """Pronunciation rules of one accent, loaded at first use. Their cache needs a lock."""

    def __init__(self, *, british: bool) -> None:
        self._british = british
        self._lock = threading.Lock()
        self._rules: Hibari | None = None

    def phonemes(self, speaker: Hibari, sentence: str) -> list[str]:
        with self._lock:
            if self._rules is None:
                from hibari import Hibari
                from hibari.g2p import G2P
                from hibari.g2p.oov import ASSETS, OOV

                net = OOV(str(Path(ASSETS) / ("oov_gb.onnx" if self._british else "oov.onnx")))
                rules = G2P(oov=WholeWords(net), british=self._british)
                self._rules = Hibari(speaker.voice, speaker.model_path, g2p=rules)
            try:
                return [str(each) for each in self._rules.phonemize(sentence)]
            except Exception as error:  # the rules are pure: any exception is caused by the text
                raise InvalidRequest(
                    f"The voice cannot read this sentence: {sentence[:60]!r}.", param="input"
                ) from error
