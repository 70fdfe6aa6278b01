"""Videos are paid by the second, by their size where a row has prices for sizes."""

from __future__ import annotations

import pytest

from backends.wire.video.events import completed, progress
from backends.wire.video.request import VideoRequest
from catalog.model import Capability, Price
from routing.accounts.costs import cost_of, to_nano
from routing.calling.watching.observers import VideoObserver
from routing.outcomes import Usage
from routing.reading.videos import read_video

SIZED = Price.model_validate({"video": 0.1, "tiers": {"360p": 0.3, "1080p": 1.5}})


def used(size: str | None, seconds: float | None) -> Usage:
    """The usage of a video that was asked for with 8 seconds and made with these."""
    request = VideoRequest(prompt="A fox.", seconds="8", size=size)
    facts = read_video(request)
    observer = VideoObserver(facts.units, facts.tiers)
    observer.see(progress(0))
    assert not observer.begun
    observer.see(progress(3))
    observer.see(completed(seconds))
    return observer.usage


@pytest.mark.parametrize(
    ("size", "dollars"),
    [(None, 0.8), ("1280x720", 0.8), ("640x360", 0.24), ("1080x1920", 1.2), ("3840x2160", 0.8), ("832x480", 0.8)],
)
def test_a_size_costs_what_the_row_says_of_it_or_the_listed_price(size: str | None, dollars: float) -> None:
    cost = cost_of(SIZED, used(size, 8.0), Capability.VIDEO)
    assert (cost.nano, cost.unknown_parts) == (to_nano(dollars), ())
    flat = cost_of(Price(video=0.1), used(size, 8.0), Capability.VIDEO)
    assert (flat.nano, flat.unknown_parts) == (to_nano(0.8), ())


def test_the_seconds_that_were_made_count_and_those_asked_for_where_the_server_does_not_tell() -> None:
    assert cost_of(SIZED, used(None, 4.0), Capability.VIDEO).nano == to_nano(0.4)
    assert cost_of(SIZED, used(None, None), Capability.VIDEO).nano == to_nano(0.8)


def test_a_video_that_was_not_made_costs_nothing_and_one_without_a_price_is_never_free() -> None:
    assert cost_of(SIZED, used(None, 0.0), Capability.VIDEO).exact == 0
    assert cost_of(Price(), used(None, 8.0), Capability.VIDEO).exact is None
    assert cost_of(Price(), used(None, 8.0), Capability.VIDEO).unknown_parts == ("video",)
