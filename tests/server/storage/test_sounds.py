"""Transcripts of a conversation's sounds are kept for a while, for their caller alone."""

from __future__ import annotations

import pytest

from server.storage.sounds import KEPT_SECONDS, MOST_CHARACTERS, MOST_SOUNDS, HeardSound, HeardSounds


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def test_a_transcript_is_its_callers_alone(time: Time) -> None:
    kept = HeardSounds(time)
    kept.keep("ann", b"1", HeardSound("Hello", "ear"))
    assert kept.get("ann", b"1") == ("Hello", "ear")
    assert kept.get("bob", b"1") is None
    assert kept.get("ann", b"2") is None


def test_a_transcript_is_forgotten_when_it_was_not_asked_for_in_a_while(time: Time) -> None:
    kept = HeardSounds(time)
    kept.keep("ann", b"1", HeardSound("Hello", "ear"))
    for _ in range(3):
        time.now += KEPT_SECONDS - 1
        assert kept.get("ann", b"1") is not None
    time.now += KEPT_SECONDS + 1
    assert kept.get("ann", b"1") is None


def test_the_least_recently_used_go_first(time: Time) -> None:
    kept = HeardSounds(time)
    for number in range(MOST_SOUNDS):
        kept.keep("ann", bytes([number]), HeardSound("x", "ear"))
    assert kept.get("ann", b"\0") is not None
    kept.keep("ann", b"more", HeardSound("x", "ear"))
    assert kept.get("ann", b"\1") is None
    assert kept.get("ann", b"\0") is not None


def test_all_texts_together_are_bounded(time: Time) -> None:
    kept = HeardSounds(time)
    half = HeardSound("x" * (MOST_CHARACTERS // 2), "ear")
    for name in (b"1", b"1", b"2", b"3"):
        kept.keep("ann", name, half)
    assert [kept.get("ann", name) is not None for name in (b"1", b"2", b"3")] == [False, True, True]
