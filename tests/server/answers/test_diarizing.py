"""Words of one model given to the turns of another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from backends.base import Upstream
from backends.wire.audio import TranscriptionRequest
from catalog.errors import UnsupportedParameter
from catalog.model import Capability, LibrarySource, Model, UpstreamSource
from catalog.types import Json
from routing.facts import Facts
from routing.plan import Plan
from server.answers.diarizing import SpokenTurn, labelled, labels_itself
from tests.server.api.test_chat import events
from tests.server.conftest import Gateway
from tests.server.fakes import PLAN
from tests.server.test_bad_input import error

TURNS = (SpokenTurn(0.0, 2.0, "A"), SpokenTurn(2.0, 4.0, "B"), SpokenTurn(6.0, 8.0, "A"))


def words(*said: tuple[str, float, float]) -> list[Json]:
    return [{"word": word, "start": start, "end": end} for word, start, end in said]


def parts(done: Json, turns: tuple[SpokenTurn, ...] = TURNS) -> list[tuple[str, str, float, float]]:
    return [(each["speaker"], each["text"], each["start"], each["end"]) for each in labelled(done, turns)]


def test_a_segment_of_two_speakers_is_cut_at_the_word() -> None:
    done = {
        "segments": [{"start": 0.0, "end": 4.0, "text": " Are you there? Yes.", "id": 0}],
        "words": words(("Are", 0.0, 0.5), ("you", 0.5, 1.0), ("there?", 1.0, 1.9), ("Yes.", 2.1, 2.5)),
    }
    assert parts(done) == [("A", "Are you there?", 0.0, 1.9), ("B", "Yes.", 2.1, 2.5)]


def test_a_segment_of_one_speaker_stays_as_it_is() -> None:
    done = {
        "segments": [{"start": 2.0, "end": 4.0, "text": " Yes, I am.", "avg_logprob": -0.1}],
        "words": words(("Yes,", 2.1, 2.5), ("I", 2.6, 2.7), ("am.", 2.8, 3.0)),
    }
    (segment,) = labelled(done, TURNS)
    assert segment == {**done["segments"][0], "id": 0, "speaker": "B"}


def test_without_times_of_words_a_segment_goes_to_whom_most_of_it_is() -> None:
    done = {"segments": [{"start": 1.5, "end": 3.5, "text": "Hm."}, {"start": 5.0, "end": 5.5, "text": "Well."}]}
    assert parts(done) == [("B", "Hm.", 1.5, 3.5), ("A", "Well.", 5.0, 5.5)]


def test_words_without_segments_become_segments() -> None:
    done = {"text": "One two", "words": words(("One", 0.1, 0.4), ("two", 3.0, 3.4))}
    assert parts(done) == [("A", "One", 0.1, 0.4), ("B", "two", 3.0, 3.4)]


def test_words_of_scripts_without_spaces_follow_each_other() -> None:
    done = {
        "segments": [{"start": 0, "end": 4, "text": "你好世界"}],
        "words": words(("你", 0.1, 0.4), ("好", 0.5, 1.0), ("世界", 3.0, 3.4)),
    }
    assert [text for _, text, _, _ in parts(done)] == ["你好", "世界"]


def test_a_transcript_without_times_cannot_be_given_to_speakers() -> None:
    with pytest.raises(UnsupportedParameter):
        list(labelled({"text": "Hello"}, TURNS))
    assert list(labelled({"text": ""}, TURNS)) == []


def test_where_no_turn_was_found_there_is_one_speaker() -> None:
    assert parts({"segments": [{"start": 0, "end": 1, "text": "Hi"}]}, ()) == [("A", "Hi", 0.0, 1.0)]


@pytest.mark.parametrize(
    ("name", "changes", "itself"),
    [
        ("scribe_v2", {}, True),
        ("gpt-4o-transcribe-diarize", {}, True),
        ("mine", {"options": {"formats": ["json", "diarized_json"]}}, True),
        ("whisper-1", {}, False),
        ("scribe", {"source": LibrarySource(module="x"), "engine": "whisper"}, False),
    ],
)
def test_models_that_tell_speakers_apart_are_known(name: str, changes: Json, itself: bool) -> None:
    source = UpstreamSource(endpoint="cloud", model=name)
    fields: Json = {"id": name, "capabilities": frozenset({Capability.TRANSCRIBE}), "source": source, **changes}
    assert labels_itself(Model(**fields)) is itself


# ---- through the gateway


async def ask(gateway: Gateway, **fields: Any) -> Any:
    files = {"file": ("a.wav", b"RIFF")}
    data = {"model": "parrot", "response_format": "diarized_json", **fields}
    return await gateway.client.post("/v1/audio/transcriptions", data=data, files=files)


def tell_turns(gateway: Gateway) -> None:
    segments = [{**segment, "speaker": name} for segment, name in zip(SEGMENTS, ("A", "Bob"), strict=True)]
    gateway.backend.transcript = {**gateway.backend.transcript, "segments": segments, "words": WORDS}


SEGMENTS: list[Json] = [
    {"id": 0, "start": 0.0, "end": 1.5, "text": " Hello there."},
    {"id": 1, "start": 1.5, "end": 3.5, "text": " <Bye>"},
]
WORDS = words(("Hello", 0.0, 0.6), ("there.", 0.7, 1.4), ("<Bye>", 1.8, 3.0))


async def test_a_transcript_gets_the_speakers_of_another_model(gateway: Gateway) -> None:
    tell_turns(gateway)
    answer = await ask(gateway, **{"known_speaker_names[]": "Bob", "num_speakers": "2", "language": "en"})
    assert [(each["speaker"], each["text"]) for each in answer.json()["segments"]] == [
        ("A", " Hello there."),
        ("Bob", " <Bye>"),
    ]
    assert answer.headers["x-roundhouse-notice"] == "'parrot' told the speakers apart"
    turns, transcript = [each for each in gateway.backend.requests if isinstance(each, TranscriptionRequest)]
    assert (turns.known_speaker_names, turns.language, turns.response_format) == (("Bob",), None, "json")
    assert (transcript.language, transcript.response_format) == ("en", "verbose_json")
    assert transcript.timestamp_granularities == ("word", "segment")
    assert gateway.dispatcher.spent[-1] == 0.25, "limits on cost count the turns"


async def test_a_stream_tells_each_segment_before_the_end(gateway: Gateway) -> None:
    tell_turns(gateway)
    told = events((await ask(gateway, stream="true")).text)
    assert [event["type"].rpartition(".")[2] for event in told] == ["delta", "delta", "segment", "segment", "done"]
    assert told[2]["speaker"] == "A"
    assert (told[3]["start"], told[3]["end"]) == (1.5, 3.5)


async def test_segments_are_told_as_they_are_heard(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    tell_turns(gateway)
    turns = gateway.backend.transcript

    async def transcribe(upstream: Upstream, request: TranscriptionRequest) -> AsyncIterator[Json]:
        if request.response_format == "json":
            yield turns
            return
        for segment in SEGMENTS:
            spoken = [word for word in WORDS if segment["start"] <= word["start"] < segment["end"]]
            times = {name: segment[name] for name in ("start", "end", "text")}
            heard = {**times, "words": spoken}
            yield {"type": "transcript.text.delta", "delta": segment["text"], "segment": heard}
        yield {**turns, "segments": SEGMENTS}

    monkeypatch.setattr(gateway.backend, "transcribe", transcribe)
    told = events((await ask(gateway, stream="true")).text)
    assert [event["type"].rpartition(".")[2] for event in told] == ["delta", "segment", "delta", "segment", "done"]
    assert [told[1]["speaker"], told[3]["speaker"]] == ["A", "Bob"]
    assert [told[1]["id"], told[3]["id"]] == ["seg_0", "seg_1"]
    assert "segment" not in told[0]
    whole = (await ask(gateway)).json()
    assert [each["speaker"] for each in whole["segments"]] == ["A", "Bob"]
    assert [each["id"] for each in whole["segments"]] == ["seg_0", "seg_1"]


async def test_without_a_model_for_turns_the_refusal_is_as_ever(gateway: Gateway) -> None:
    def none(facts: Facts) -> Plan:
        return replace(PLAN, candidates=()) if facts.capability is Capability.DIARIZE else PLAN

    gateway.dispatcher.plan = none
    error(await ask(gateway), 400, "unsupported_parameter")
