"""Events of transcripts: progress that never goes back, and no event without text but in silence."""

from __future__ import annotations

import pytest

from backends.wire.audio import TranscriptionRequest
from backends.workers.engines.common.transcripts import Transcript
from catalog.types import Json


def transcript(*, whole: float | None, translate: bool = False) -> Transcript:
    return Transcript(TranscriptionRequest(file=b"x", translate=translate), whole=whole)


@pytest.mark.parametrize(("whole", "expected"), [(None, [43.0, 43.0, 51.5]), (42.0, [42.0, 42.0, 42.0])])
def test_progress_never_goes_back_where_a_segment_claims_to_end_after_its_piece(
    whole: float | None, expected: list[float]
) -> None:
    told = transcript(whole=whole)
    first = told.add("One.", {}, 43.0)
    told.duration = 40.0
    events = [first, told.add(" Two.", {}, 1.55), told.add(" Three.", {}, 11.5)]
    assert [event["progress"]["seconds"] for event in events] == expected


def test_only_a_piece_of_silence_is_told_without_text() -> None:
    told = transcript(whole=None)
    events: list[Json] = []
    for text in ("One.", "", " Three."):
        events += told.begin_piece()
        if text:
            events.append(told.add(text, {}, 10.0))
        told.duration += 10.0
    assert [(event["delta"], event["progress"]["seconds"]) for event in events] == [
        ("One.", 10.0),
        ("", 20.0),
        (" Three.", 30.0),
    ]


@pytest.mark.parametrize("translate", [False, True])
def test_a_translation_is_english_and_tells_its_source(translate: bool) -> None:
    told = transcript(whole=None, translate=translate)
    told.language, told.probability = "fr", 0.9
    done = told.done()
    assert done["language_probability"] == 0.9
    assert (done["language"], done.get("source_language")) == (("en", "fr") if translate else ("fr", None))
