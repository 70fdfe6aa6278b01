"""A session's input: the buffer of audio that the client appends, and the turns that are found in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np

from catalog.errors import InvalidRequest
from server.realtime.hearing.silero import FRAME, RATE, SileroVad
from server.realtime.hearing.turns import FRAME_MS, TurnChange, TurnDetector, TurnMoment
from server.realtime.sound import AudioForm, Resampler

_STEP_MS = 500.0
"""Audio that is judged at a time, some milliseconds of work, before others have a turn."""
_SPARE_MS = 200.0
_PER_MS = RATE / 1000


@dataclass(frozen=True, slots=True)
class Listening:
    """How turns are found. Times in milliseconds; ``wait`` ends a turn."""

    threshold: float = 0.5
    prefix: float = 300.0
    wait: float = 500.0


class InputBuffer:
    """Audio in the client's format from ``begin`` to ``end``, in milliseconds of all audio of the session."""

    def __init__(self, form: AudioForm) -> None:
        self.form = form
        self.begin = 0.0
        self._data = bytearray()

    @property
    def milliseconds(self) -> float:
        return self.form.seconds(len(self._data)) * 1000

    @property
    def end(self) -> float:
        return self.begin + self.milliseconds

    def append(self, data: bytes) -> None:
        self._data += data

    def between(self, begin: float, end: float) -> bytes:
        """The audio of a time, as far as it is here."""
        low, high = (max(0, self.form.bytes_of(at - self.begin)) for at in (begin, end))
        return bytes(self._data[low:high])

    def forget(self, until: float) -> None:
        """Drop the audio before a time."""
        size = min(len(self._data), self.form.bytes_of(until - self.begin))
        if size > 0:
            del self._data[:size]
            self.begin += self.form.seconds(size) * 1000

    def clear(self) -> None:
        self.forget(self.end)


class Ears:
    """Takes audio and tells of turns; without ``listening`` the client says where they end."""

    def __init__(self, form: AudioForm, *, longest: float) -> None:
        """``longest`` is the most milliseconds that the buffer holds."""
        self.buffer = InputBuffer(form)
        self.listening: Listening | None = None
        self.detector: TurnDetector | None = None
        self.turn_begin: float | None = None
        self._longest = longest
        self._vad: SileroVad | None = None
        self._rest = np.zeros(0, np.float32)
        self._judged = 0.0

    def listen(self, listening: Listening | None, form: AudioForm) -> None:
        """Use another way to find turns, or another format. Another format begins with an empty buffer."""
        if form != self.buffer.form:
            end = self.buffer.end
            self.buffer = InputBuffer(form)
            self.buffer.begin = end
            self._deaf()
        if listening is None:
            self.listening = self.detector = None
            self._deaf()
        elif self.detector is None:
            self.detector = TurnDetector(threshold=listening.threshold, wait=listening.wait)
            self._deaf()
        else:
            self.detector.threshold, self.detector.wait = listening.threshold, listening.wait
        self.listening = listening

    async def hear(self, data: bytes) -> AsyncIterator[TurnMoment]:
        """Append audio; yields the changes of turns in it, in their order.

        Raises InvalidRequest for bytes that are no whole samples, and when a buffer without turns is full.
        """
        form = self.buffer.form
        if len(data) % form.width:
            raise InvalidRequest("The audio ends within a sample: pcm16 has two bytes each.", param="audio")
        if self.detector is None:
            if self.buffer.milliseconds + form.seconds(len(data)) * 1000 > self._longest:
                raise InvalidRequest(
                    f"The input buffer holds {self._longest / 1000:g} seconds at most. Commit or clear it.",
                    param="audio",
                )
            self.buffer.append(data)
            return
        step = form.bytes_of(_STEP_MS)
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            self.buffer.append(piece)
            for moment in self._judge(piece):
                yield moment
            if len(data) > step:
                await asyncio.sleep(0)

    def take(self, end: float | None = None) -> bytes:
        """The audio of the turn, or of the whole buffer, up to ``end``; it is no longer in the buffer."""
        begin = self.buffer.begin if self.turn_begin is None else self.turn_begin
        until = self.buffer.end if end is None else end
        audio = self.buffer.between(begin, until)
        self.buffer.forget(until)
        self._end_turn()
        return audio

    def heard(self) -> bytes:
        """The audio of the turn so far."""
        begin = self.buffer.begin if self.turn_begin is None else self.turn_begin
        return self.buffer.between(begin, self.buffer.end)

    def clear(self) -> None:
        """Forget the audio that was not committed."""
        self.buffer.clear()
        self._end_turn()

    def _end_turn(self) -> None:
        self.turn_begin = None
        if self.detector is not None:
            self.detector.stop()

    def _deaf(self) -> None:
        """Begin anew: state, filter and frames."""
        self._vad = None if self.detector is None else SileroVad()
        self._resampler = Resampler(self.buffer.form.rate, RATE)
        self._rest = np.zeros(0, np.float32)
        self._judged = self.buffer.end
        self._end_turn()

    def _judge(self, piece: bytes) -> list[TurnMoment]:
        """The changes in a piece of audio. A turn as long as the buffer ends."""
        detector, listening = self.detector, self.listening
        assert detector is not None
        assert listening is not None
        assert self._vad is not None
        values = self._resampler(self.buffer.form.decode(piece)) / 32768.0
        self._rest = np.concatenate((self._rest, values))
        count = len(self._rest) // FRAME
        moments: list[TurnMoment] = []
        if count:
            frames = self._rest[: count * FRAME].reshape(count, FRAME)
            self._rest = self._rest[count * FRAME :]
            for moment in detector.feed(self._vad(frames), self._judged):
                if moment.change is TurnChange.BEGAN:
                    begin = max(self.buffer.begin, moment.at - listening.prefix)
                    self.turn_begin = begin
                    moments.append(TurnMoment(TurnChange.BEGAN, begin))
                else:
                    moments.append(TurnMoment(moment.change, min(moment.at, self.buffer.end)))
            self._judged += count * FRAME_MS
        if self.turn_begin is None:
            self.buffer.forget(self.buffer.end - listening.prefix - _SPARE_MS - _STEP_MS)
        elif self.buffer.end - self.turn_begin >= self._longest and not any(
            moment.change is TurnChange.ENDED for moment in moments
        ):
            detector.stop()
            moments.append(TurnMoment(TurnChange.ENDED, self.buffer.end))
        return moments
