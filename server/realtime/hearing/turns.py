"""Where a speaker's turns begin and end, frame by frame.

Speech begins with two frames in a row above the threshold. It pauses after an eighth of a second below it, which
is when a transcript can be begun, and its turn ends after ``wait`` of silence. Source of the two thresholds:
Silero's own iterator, whose lower one is 0.15 below the upper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

FRAME_MS = 32.0
_BEGINS = 2
"""Frames of speech that begin a turn: 64 ms, longer than a click."""
_HYSTERESIS = 0.15
PAUSE_MS = 128.0


class TurnChange(Enum):
    """The event at a moment: a turn began, paused, went on after a pause, or ended."""

    BEGAN = auto()
    PAUSED = auto()
    WENT_ON = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class TurnMoment:
    """A change and its time in milliseconds of all audio of the session."""

    change: TurnChange
    at: float


class TurnDetector:
    """Follows one speaker. ``wait`` (ms of silence that end a turn) may be changed at any time."""

    def __init__(self, *, threshold: float, wait: float) -> None:
        self.threshold = threshold
        self.wait = wait
        self.speaking = False
        self.silence = 0.0
        self._above = 0

    def feed(self, probabilities: Sequence[float], at: float) -> Iterator[TurnMoment]:
        """The changes within frames, the first of which begins at ``at`` ms."""
        for probability in probabilities:
            yield from self._frame(probability, at)
            at += FRAME_MS

    def stop(self) -> None:
        """End a turn without a moment: its audio was taken or cleared."""
        self.speaking, self.silence, self._above = False, 0.0, 0

    def _frame(self, probability: float, at: float) -> Iterator[TurnMoment]:
        speech = probability >= self.threshold
        if not self.speaking:
            self._above = self._above + 1 if speech else 0
            if self._above == _BEGINS:
                self.speaking, self.silence, self._above = True, 0.0, 0
                yield TurnMoment(TurnChange.BEGAN, at - (_BEGINS - 1) * FRAME_MS)
            return
        if speech:
            paused, self.silence = self.silence >= PAUSE_MS, 0.0
            if paused:
                yield TurnMoment(TurnChange.WENT_ON, at)
            return
        if probability >= self.threshold - _HYSTERESIS and not self.silence:
            return
        before = self.silence
        self.silence += FRAME_MS
        if before < PAUSE_MS <= self.silence:
            yield TurnMoment(TurnChange.PAUSED, at + FRAME_MS)
        if self.silence >= self.wait:
            self.stop()
            yield TurnMoment(TurnChange.ENDED, at + FRAME_MS)
