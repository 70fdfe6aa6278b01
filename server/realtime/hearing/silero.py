"""Silero's voice activity model (version 6, 16 kHz) in NumPy: the probability of speech in each 32 ms of audio.

The network is small (310,000 weights, 0.1 ms a frame), so it runs in the gateway without a native runtime.
Weights: https://github.com/snakers4/silero-vad, MIT licence, Copyright (c) 2020-present Silero Team; the file next
to this one holds them as float16, which changes probabilities by about 0.01. ``tests/server/realtime``
compares it with the ONNX graph.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
FRAME = 512
"""Samples of a frame: 32 ms."""
_CONTEXT = 64
_HIDDEN = 128

Floats = NDArray[np.float32]


class SileroVad:
    """Judges a stream of audio. The state is one speaker's: each session has an instance of its own."""

    def __init__(self) -> None:
        self._weights = _weights()
        self.reset()

    def reset(self) -> None:
        """Forget what was heard."""
        self._context = np.zeros(_CONTEXT, np.float32)
        self._h = np.zeros(_HIDDEN, np.float32)
        self._c = np.zeros(_HIDDEN, np.float32)

    def __call__(self, frames: Floats) -> list[float]:
        """The probabilities of frames, of shape (n, 512) and in [-1, 1], which follow those of the last call."""
        before = np.concatenate((self._context[None], frames[:-1, -_CONTEXT:]))
        self._context = frames[-1, -_CONTEXT:].copy()
        features = self._encode(np.concatenate((before, frames), axis=1))
        return [self._decode(row) for row in features]

    def _encode(self, audio: Floats) -> Floats:
        """Features of shape (n, 128) of audio (n, 576)."""
        weights = self._weights
        padded = np.concatenate((audio, audio[:, -2 : -_CONTEXT - 2 : -1]), axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, 256, axis=1)[:, ::128]  # (n, 4, 256)
        spectrum = windows @ weights["basis"]
        half = spectrum.shape[-1] // 2
        x = np.sqrt(spectrum[..., :half] ** 2 + spectrum[..., half:] ** 2)  # (n, time, channel)
        for number, stride in enumerate((1, 2, 2, 1)):
            edge = np.zeros_like(x[:, :1])
            x = np.concatenate((edge, x, edge), axis=1)
            columns = np.lib.stride_tricks.sliding_window_view(x, 3, axis=1)[:, ::stride]  # (n, t, channel, 3)
            columns = columns.reshape(*columns.shape[:2], -1)
            x = np.maximum(columns @ weights[f"conv{number}"] + weights[f"bias{number}"], 0)
        features: Floats = x[:, 0]
        return features

    def _decode(self, features: Floats) -> float:
        weights = self._weights
        gates = weights["lstm"] @ np.concatenate((features, self._h)) + weights["lstm_bias"]
        squashed = 1 / (1 + np.exp(-gates[: 3 * _HIDDEN]))
        i, o, f = squashed[:_HIDDEN], squashed[_HIDDEN : 2 * _HIDDEN], squashed[2 * _HIDDEN :]
        self._c = f * self._c + i * np.tanh(gates[3 * _HIDDEN :])
        self._h = o * np.tanh(self._c)
        score = float(np.maximum(self._h, 0) @ weights["out"]) + float(weights["out_bias"][0])
        return float(1 / (1 + np.exp(-score)))


@cache
def _weights() -> dict[str, Floats]:
    """The weights, read once: matrices are laid out for the products above."""
    with files(__package__).joinpath("silero.npz").open("rb") as file, np.load(file) as stored:
        return {name: np.ascontiguousarray(stored[name].astype(np.float32)) for name in stored.files}
