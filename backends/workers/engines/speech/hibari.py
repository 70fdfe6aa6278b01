"""hibari's voices: a small English model with its own grapheme-to-phoneme rules, part of an installed library."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from backends.workers.engines.common.audio import Samples
from backends.workers.engines.speech.voices import Voice
from catalog.errors import EngineMissing

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
        for sentence in speaker.split_sentences(text):
            for phonemes in accent.phonemes(speaker, sentence):
                samples: Samples = speaker.from_ids(speaker.ids(phonemes), speed, noise)
                yield samples


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

                self._rules = Hibari(speaker.voice, speaker.model_path, g2p=G2P(british=self._british))
            return [str(each) for each in self._rules.phonemize(sentence)]
