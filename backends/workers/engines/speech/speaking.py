"""Speaks a script piece by piece: one loudness, pauses between pieces, and the times of the words."""

from __future__ import annotations

import base64
from collections.abc import Generator

import numpy as np

from backends.workers.engines.common.audio import Samples
from backends.workers.engines.speech.loudness import even
from backends.workers.engines.speech.phonemes.words import Piece
from backends.workers.engines.speech.ssml import Break, Script
from backends.workers.engines.speech.voices import Choice, Speech, Synthesizer
from backends.workers.program.app import sse_event
from backends.workers.program.threads import CancelSignal
from catalog.errors import InvalidRequest


class Telling:
    """The words that were spoken and not told yet, with their times in the whole answer.

    ``rate`` is that of the samples in Hz, ``tempo`` the factor by which they are played faster.
    """

    def __init__(self, rate: int, *, tempo: float) -> None:
        self.words: list[dict[str, str | float]] = []
        self._rate = rate
        self._tempo = tempo
        self._samples = 0

    def silence(self, samples: Samples) -> None:
        """Count samples without words."""
        self._samples += len(samples)

    def add(self, speech: Speech) -> None:
        """Add the words of a piece, whose samples come next."""
        before = self._samples / self._rate
        for word in speech.words:
            start, end = ((before + at) / self._tempo for at in (word.start, word.end))
            self.words.append({"word": word.word, "start": round(start, 3), "end": round(end, 3)})
        self._samples += len(speech.samples)

    def event(self, audio: bytes) -> bytes:
        """An event with audio and the words that have not been told."""
        words, self.words = self.words, []
        return sse_event({"type": "speech.audio.delta", "audio": base64.b64encode(audio).decode(), "words": words})


def spoken(
    synthesizer: Synthesizer, script: Script, choice: Choice, pace: float, telling: Telling, cancel: CancelSignal
) -> Generator[Samples, None, None]:
    """Yield pieces of speech until cancelled.

    All is read before anything is spoken: a text that cannot be read is refused as a whole. Raises InvalidRequest
    as :meth:`Synthesizer.read` does, and if the text contains nothing to speak.
    """
    rate = synthesizer.sample_rate
    read: list[Piece | Break] = []
    for part in script.parts:
        read += [part] if isinstance(part, Break) else synthesizer.read(part, language=choice.language)
    pause, silent = 0.0, True
    for each in read:
        cancel.check()
        if isinstance(each, Break):
            pause = max(pause, each.seconds / pace)
            continue
        speech = synthesizer.speak(each, choice.voice, speed=pace)
        if not len(speech.samples):
            continue
        silent = False
        if pause:
            quiet = np.zeros(int(pause * rate), np.float32)
            telling.silence(quiet)
            yield quiet
        telling.add(speech)
        yield even(speech.samples, rate)
        pause = speech.pause
    if silent:
        raise InvalidRequest("There is nothing in the text that can be spoken.", param="input")
    if pause and read and isinstance(read[-1], Break):
        yield np.zeros(int(pause * rate), np.float32)
