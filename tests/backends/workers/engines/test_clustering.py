"""Voices grouped into speakers, and windows into turns."""

from __future__ import annotations

import numpy as np
import pytest

from backends.workers.engines.speakers.clustering import (
    MOST_SPEAKERS,
    Groups,
    Speakers,
    SpeechWindow,
    grouped,
)
from backends.workers.engines.speakers.voices import Vectors

DIMENSIONS = 64


def voices(count: int, seed: int = 1) -> Vectors:
    """Voices that are far from each other."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(DIMENSIONS, count)))[0].T.astype(np.float32)


def said(voice: Vectors, times: int, *, spread: float = 0.05, seed: int = 0) -> Vectors:
    """Unit vectors around a voice, shape (times, DIMENSIONS)."""
    vectors = voice + np.random.default_rng(seed).normal(0, spread, (times, DIMENSIONS))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def windows(starts: list[float], stretch: int = 0, after: float = 0.0) -> list[SpeechWindow]:
    return [SpeechWindow(after + start, after + start + 1.6, stretch) for start in starts]


def test_vectors_of_one_voice_are_one_group() -> None:
    one, two = voices(2)
    vectors = np.concatenate([said(one, 5), said(two, 3), said(one, 4, seed=9)])
    groups, labels = grouped(Groups(vectors, np.ones(12)), alike=0.6)
    assert sorted(groups.sizes.tolist()) == [3, 9]
    assert labels.tolist() == [labels[0]] * 5 + [labels[5]] * 3 + [labels[0]] * 4
    assert labels[0] != labels[5]


def test_the_likeness_of_two_groups_is_the_mean_of_their_pairs() -> None:
    one, two = said(voices(1)[0], 4), said(voices(1)[0], 3, spread=0.2, seed=4)
    mean = float((one @ two.T).mean())
    both = Groups(np.stack([one.mean(axis=0), two.mean(axis=0)]), np.array([4.0, 3.0]))
    assert len(grouped(both, alike=mean + 1e-3)[0].sizes) == 2
    assert len(grouped(both, alike=mean - 1e-3)[0].sizes) == 1


def test_a_known_number_of_speakers_is_kept_to() -> None:
    vectors = np.concatenate([said(voice, 3) for voice in voices(4)])
    for count in (1, 2, 4, 6):
        assert len(grouped(Groups(vectors, np.ones(12)), alike=0.6, count=count)[0].sizes) == count


def test_there_are_never_more_speakers_than_the_most() -> None:
    vectors = said(voices(1)[0], 80, spread=3.0)
    assert len(grouped(Groups(vectors, np.ones(80)), alike=0.99)[0].sizes) == MOST_SPEAKERS


def test_speakers_are_the_same_in_every_piece_and_numbered_as_they_first_speak() -> None:
    one, two = voices(2)
    speakers = Speakers(alike=0.6)
    speakers.add(windows([0, 1, 2]), said(two, 3))
    speakers.add([], np.zeros((0, DIMENSIONS), np.float32))
    speakers.add(windows([0, 1], stretch=7, after=300), said(one, 2))
    speakers.add(windows([3, 4], stretch=8, after=300), said(two, 2, seed=3))
    turns, means = speakers.turns()
    assert [(turn.speaker, turn.start) for turn in turns] == [(0, 0), (1, 300), (0, 303)]
    assert turns[0].end == pytest.approx(3.6)
    assert float(means[0] @ two) > 0.9
    assert float(means[1] @ one) > 0.9


def test_the_turn_changes_between_the_windows_of_two_speakers_without_a_pause() -> None:
    one, two = voices(2)
    speakers = Speakers(alike=0.6)
    speakers.add(windows([0, 0.8, 1.6, 2.4]), np.concatenate([said(one, 2), said(two, 2)]))
    turns, _ = speakers.turns()
    assert [turn.speaker for turn in turns] == [0, 1]
    assert [turn.start for turn in turns] == pytest.approx([0.0, 2.0])
    assert [turn.end for turn in turns] == pytest.approx([2.0, 4.0])


def test_a_single_window_between_two_speakers_is_no_third() -> None:
    one, two = voices(2)
    mixed = (one + two)[None] / np.linalg.norm(one + two)
    speakers = Speakers(alike=0.8)
    speakers.add(windows([0, 1, 2, 3, 4]), np.concatenate([said(one, 2), mixed, said(two, 2)]))
    assert {turn.speaker for turn in speakers.turns()[0]} == {0, 1}


def test_a_known_number_of_speakers_holds_for_voices_that_are_much_alike() -> None:
    one = voices(1)[0]
    other = one + 0.3 * voices(2, seed=5)[1]
    speakers = Speakers(alike=0.3, count=2)
    speakers.add(windows([0, 2]), said(one, 2, spread=0.01))
    speakers.add(
        windows([0, 2, 4, 6], after=300), np.concatenate([said(other, 2, spread=0.01), said(one, 2, spread=0.01)])
    )
    assert [turn.speaker for turn in speakers.turns()[0]] == [0, 1, 0]


def test_silence_has_no_turns() -> None:
    assert Speakers(alike=0.7).turns()[0] == []
