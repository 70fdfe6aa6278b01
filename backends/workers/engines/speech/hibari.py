"""hibari's voices: a small English model with its own grapheme-to-phoneme rules, part of an installed library."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from backends.workers.engines.speech.phonemes.english import English
from backends.workers.engines.speech.phonemes.words import Piece, phonemes_of, pieces
from backends.workers.engines.speech.reading import check_length, readable
from backends.workers.engines.speech.voices import NO_VOICES, Speech, Voice
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
    blends = False
    unread = NO_VOICES
    timed = False

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
        self._accents = {_AMERICAN: English(british=False), _BRITISH: English(british=True)}

    def read(self, text: str, *, language: str) -> Sequence[Piece]:
        """See :class:`Synthesizer`."""
        from hibari import Hibari

        read = [self._accents[language](sentence) for sentence in Hibari.split_sentences(readable(text))]
        check_length(text, map(phonemes_of, read))
        return list(chain.from_iterable(map(pieces, read)))

    def speak(self, piece: Piece, voice: Voice, *, speed: float) -> Speech:
        """See :class:`Synthesizer`. The pauses are in the samples."""
        speaker = self._speakers[voice.name]
        return Speech(speaker.from_ids(speaker.ids(phonemes_of(piece)), speed, np.random.default_rng(0)))
