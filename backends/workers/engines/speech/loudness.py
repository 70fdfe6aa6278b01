"""Even loudness, and edges without clicks, for pieces of speech that follow each other."""

from __future__ import annotations

import numpy as np

from backends.workers.engines.common.audio import Samples

LOUDNESS = 0.1
"""Root mean square of what is heard, -20 dB below full scale: as EBU R 128 asks of speech, to 3 dB."""
_PEAK = 0.97
_MOST = 3.0
"""Gain, either way: what is quieter or louder than this is meant to be."""
_EDGE = 0.005
"""Seconds over which a piece fades in and out."""


def even(samples: Samples, rate: int) -> Samples:
    """Bring a piece of speech to :data:`LOUDNESS`, below full scale, and fade its edges. Silence stays silence.

    The loudness is measured where it is heard: frames of 20 ms within 30 dB of the loudest.
    """
    size = max(1, rate // 50)
    whole = len(samples) // size * size
    if not whole:
        return samples
    power = np.mean(np.square(samples[:whole].reshape(-1, size), dtype=np.float64), axis=1)
    loudest = float(power.max())
    if loudest < 1e-8:
        return samples
    level = float(np.sqrt(power[power > loudest * 1e-3].mean()))
    gain = min(max(LOUDNESS / level, 1 / _MOST), _MOST)
    gain = min(gain, _PEAK / max(float(np.abs(samples).max()), 1e-9))
    made = (samples * np.float32(gain)).astype(np.float32)
    edge = min(int(rate * _EDGE), len(made) // 2)
    if edge:
        ramp = np.linspace(0.0, 1.0, edge, dtype=np.float32)
        made[:edge] *= ramp
        made[-edge:] *= ramp[::-1]
    return made
