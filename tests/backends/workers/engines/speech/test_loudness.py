"""Pieces of speech have one loudness, and no clicks at their edges."""

from __future__ import annotations

import numpy as np
import pytest

from backends.workers.engines.common.audio import Samples
from backends.workers.engines.speech.loudness import LOUDNESS, even

RATE = 24_000


def tone(amplitude: float, *, silence: float = 0.0) -> Samples:
    """A second of sound, and silence after it."""
    time = np.arange(RATE) / RATE
    sound = amplitude * np.sin(2 * np.pi * 220 * time)
    return np.concatenate([sound, np.zeros(int(RATE * silence))]).astype(np.float32)


def level(samples: Samples) -> float:
    middle = samples[RATE // 10 : RATE // 2]
    return float(np.sqrt(np.mean(np.square(middle))))


@pytest.mark.parametrize("amplitude", [0.06, 0.14, 0.4])
def test_quiet_and_loud_pieces_end_at_one_loudness(amplitude: float) -> None:
    assert level(even(tone(amplitude), RATE)) == pytest.approx(LOUDNESS, rel=0.03)


def test_silence_within_a_piece_does_not_make_it_louder() -> None:
    assert level(even(tone(0.2, silence=3.0), RATE)) == pytest.approx(LOUDNESS, rel=0.03)


def test_a_whisper_is_not_made_a_shout_and_silence_stays_silence() -> None:
    assert level(even(tone(0.003), RATE)) < LOUDNESS / 10
    assert not even(np.zeros(RATE, np.float32), RATE).any()
    assert not len(even(np.zeros(0, np.float32), RATE))


def test_a_peak_stays_below_full_scale() -> None:
    samples = tone(0.02)
    samples[RATE // 2] = 0.9
    assert np.abs(even(samples, RATE)).max() < 1.0


def test_a_piece_begins_and_ends_at_zero() -> None:
    made = even(np.full(RATE, 0.1, np.float32), RATE)
    assert made[0] == made[-1] == 0
    assert np.abs(np.diff(made)).max() < 0.01, "no step is heard as a click"
