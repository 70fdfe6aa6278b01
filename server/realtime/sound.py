"""Audio of a session: the three formats of OpenAI's wire, and changes of the sampling rate.

Inside, audio is 16-bit samples at the format's own rate. Sources: ITU-T G.711 (the µ-law and A-law tables),
OpenAI's API reference (``audio/pcm`` is 24 kHz, mono, little-endian).
"""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
Kind = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
PCM_RATE, TELEPHONE_RATE = 24_000, 8_000


@dataclass(frozen=True, slots=True)
class AudioForm:
    """One of the wire's formats; ``rate`` is samples a second, ``width`` bytes a sample."""

    kind: Kind = "audio/pcm"

    @property
    def rate(self) -> int:
        return PCM_RATE if self.kind == "audio/pcm" else TELEPHONE_RATE

    @property
    def width(self) -> int:
        return 2 if self.kind == "audio/pcm" else 1

    def seconds(self, size: int) -> float:
        """The duration of this many bytes."""
        return size / self.width / self.rate

    def bytes_of(self, milliseconds: float) -> int:
        """The bytes of a duration, of whole samples."""
        return int(milliseconds * self.rate / 1000) * self.width

    def decode(self, data: bytes) -> Samples:
        """The samples of whole bytes of this format."""
        if self.kind == "audio/pcm":
            return np.frombuffer(data, "<i2")
        table = _ulaw_table() if self.kind == "audio/pcmu" else _alaw_table()
        return table[np.frombuffer(data, np.uint8)]

    def encode(self, samples: Samples) -> bytes:
        """The samples, which are of this format's rate, as bytes."""
        if self.kind == "audio/pcm":
            return samples.astype("<i2", copy=False).tobytes()
        table = _encoder("ulaw") if self.kind == "audio/pcmu" else _encoder("alaw")
        return table[samples.view(np.uint16)].tobytes()


def wav(samples: Samples, rate: int) -> bytes:
    """The samples as a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2", copy=False).tobytes())
    return out.getvalue()


class Resampler:
    """Changes the rate of a stream by a polyphase filter of Hann-windowed sincs; a delay of some milliseconds."""

    def __init__(self, source: int, target: int) -> None:
        common = int(np.gcd(source, target))
        self._up, self._down = target // common, source // common
        self._taps, self._filters = _filters(self._up, self._down)
        self._tail = np.zeros(self._taps - 1, np.float32)
        self._phase = 0

    def __call__(self, samples: Samples) -> NDArray[np.float32]:
        """The next samples at the new rate, in the scale of 16 bits."""
        if self._up == self._down:
            return samples.astype(np.float32)
        signal = np.concatenate((self._tail, samples.astype(np.float32)))
        count = len(samples)
        # Output n is at input position (phase + n * down) / up of this piece.
        outputs = max(0, -(-(count * self._up - self._phase) // self._down))
        at = self._phase + np.arange(outputs) * self._down
        windows = np.lib.stride_tricks.sliding_window_view(signal, self._taps)
        made: NDArray[np.float32] = np.einsum("nt,nt->n", windows[at // self._up], self._filters[at % self._up])
        self._phase = self._phase + outputs * self._down - count * self._up
        self._tail = signal[len(signal) - (self._taps - 1) :]
        return made


def to_samples(values: NDArray[np.float32]) -> Samples:
    """Values in the scale of 16 bits as whole samples."""
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)


@cache
def _filters(up: int, down: int) -> tuple[int, NDArray[np.float32]]:
    """Taps of a filter, and one filter for each phase (phase, tap), applied to the newest samples last."""
    taps = 16 * max(1, -(-down // up))
    cutoff = 0.92 / max(1.0, down / up)  # of the source's Nyquist frequency
    middle = taps / 2
    phases = np.arange(up)[:, None] / up
    distance = np.arange(taps)[None, :] - middle + 1 - phases + 1e-9
    shape = np.sinc(distance * cutoff) * (0.5 + 0.5 * np.cos(np.pi * distance / (middle + 1)))
    shape[np.abs(distance) > middle + 1] = 0
    shape /= shape.sum(axis=1, keepdims=True)
    return taps, shape.astype(np.float32)


@cache
def _ulaw_table() -> Samples:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


@cache
def _alaw_table() -> Samples:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent, mantissa = (code & 0x70) >> 4, code & 0x0F
    magnitude = np.where(
        exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0)
    )
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


@cache
def _encoder(law: Literal["ulaw", "alaw"]) -> NDArray[np.uint8]:
    """For each 16-bit sample, as its unsigned bits, the code of the nearest value of the table."""
    values = _ulaw_table() if law == "ulaw" else _alaw_table()
    order = np.argsort(values, kind="stable")
    ascending = values[order].astype(np.int32)
    between = (ascending[1:] + ascending[:-1]) / 2
    samples = np.arange(-32768, 32768)
    codes = order[np.searchsorted(between, samples)].astype(np.uint8)
    made: NDArray[np.uint8] = np.roll(codes, -32768)  # index 0 is sample 0, index 32768 is sample -32768
    return made
