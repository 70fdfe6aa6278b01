"""Voices as vectors: a mel spectrogram of what was said, and the network that embeds it.

Sources: librosa's melspectrogram (Slaney's filters) and Resemblyzer's preprocessing for GE2E; Kaldi's filter bank
features for networks of WeSpeaker's and 3D-Speaker's kind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backends.workers.engines.common.audio import Samples
from catalog.errors import EngineMissing, ModelUnavailable

RATE = 16_000
Vectors = NDArray[np.float32]
Features = Literal["ge2e", "fbank"]
_WINDOW, _HOP = 400, 160
_LOUDNESS = 10 ** (-30 / 20)
"""The root mean square that quiet speech is raised to: -30 dBFS."""
_AT_ONCE = 32


def ge2e_features(samples: Samples) -> Vectors:
    """The power mel spectrogram of 40 channels, shape ``(frames, 40)``, 100 frames a second."""
    loudness = float(np.sqrt(np.mean(np.square(samples)))) if len(samples) else 0.0
    raised = samples * (_LOUDNESS / loudness) if 0 < loudness < _LOUDNESS else samples
    padded = np.pad(raised, _WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(frames * _hann(), axis=1)) ** 2
    return np.asarray(power @ _slaney(40).T, np.float32)


def fbank_features(samples: Samples) -> Vectors:
    """Kaldi's log mel filter bank (Hamming) of 80 channels less its mean, shape ``(frames, 80)``, 100 a second."""
    if len(samples) < _WINDOW:
        samples = np.pad(samples, (0, _WINDOW - len(samples)))
    scaled = samples.astype(np.float64) * 32_768
    frames = np.lib.stride_tricks.sliding_window_view(scaled, _WINDOW)[::_HOP].copy()
    frames -= frames.mean(axis=1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    power = np.abs(np.fft.rfft(frames * np.hamming(_WINDOW), 512, axis=1)) ** 2
    logged = np.log(np.maximum(power[:, :256] @ _kaldi(80).T, np.finfo(np.float32).eps))
    return np.asarray(logged - logged.mean(axis=0), np.float32)


FEATURES: dict[Features, Callable[[Samples], Vectors]] = {"ge2e": ge2e_features, "fbank": fbank_features}


@lru_cache(maxsize=1)
def _hann() -> NDArray[np.float64]:
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW), np.float64)


@lru_cache(maxsize=1)
def _slaney(channels: int) -> NDArray[np.float64]:
    """Slaney's mel filters of equal area, shape ``(channels, 201)``: linear below 1 kHz, logarithmic above."""
    step = np.log(6.4) / 27

    def to_hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(step * (mel - 15)))

    top = 15 + np.log(RATE / 2 / 1000) / step
    edges = to_hertz(np.linspace(0, top, channels + 2))
    filters = _triangles(edges, np.fft.rfftfreq(_WINDOW, 1 / RATE).astype(np.float64))
    return filters * (2 / (edges[2:] - edges[:-2]))[:, None]


@lru_cache(maxsize=1)
def _kaldi(channels: int) -> NDArray[np.float64]:
    """Kaldi's mel filters from 20 Hz, triangles in mel, shape ``(channels, 256)``."""

    def mel(hertz: Any) -> Any:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    edges = np.linspace(mel(20.0), mel(RATE / 2), channels + 2)
    return _triangles(edges, mel(np.arange(256) * RATE / 512))


def _triangles(edges: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.maximum(0, np.minimum((places - low) / (middle - low), (high - places) / (high - middle)))


class VoiceEncoder:
    """An ONNX network: its one input is ``[batch, frames, channels]``, its first output an embedding of each."""

    def __init__(self, file: Path, *, features: Features, threads: int, device: str) -> None:
        """Raises EngineMissing without ONNX Runtime, ModelUnavailable for a file that it cannot run."""
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineMissing("speakers", extra="speech", package=error.name) from None

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        wanted = ["CUDAExecutionProvider"] if device == "cuda" else []
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=[*wanted, "CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no common base
            raise ModelUnavailable(f"ONNX Runtime cannot run {file.name}: {str(error)[:200]}") from error
        self._input = self._session.get_inputs()[0].name
        self._features = FEATURES[features]

    def embed(self, windows: list[Samples], check: Callable[[], None]) -> Vectors:
        """Embed windows of equal length: vectors of length 1, shape ``(windows, dimensions)``.

        ``check`` is called between batches.
        """
        found = []
        for at in range(0, len(windows), _AT_ONCE):
            check()
            batch = np.stack([self._features(window) for window in windows[at : at + _AT_ONCE]])
            found.append(np.asarray(self._session.run(None, {self._input: batch})[0], np.float32))
        vectors = np.concatenate(found)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-9), np.float32)
