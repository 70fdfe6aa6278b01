"""Which models hear which language: a rule where the caller names it, a preference where nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from catalog.model import Capability, Model
from routing.facts import Facts, Mode, Task
from routing.settings import SpeechPolicy
from tests.routing.catalogue import SETTINGS, chat, local, remote, world
from tests.routing.choosing.plans import choose, codes

HEARS = frozenset({Capability.TRANSCRIBE})


def ear(id_: str, **changes: Any) -> Model:
    fields: dict[str, Any] = {"engine": "whisper", "capabilities": HEARS, "benchmarks": {"transcribe": 0.8}}
    return local(id_, **{**fields, **changes})


ENGLISH = ear("english", languages=("en",), benchmarks={"transcribe": 0.95})
BABEL = ear("babel", languages=("en", "de", "fr"))
UNKNOWN = ear("unlisted")


def hear(*languages: str, **changes: Any) -> Facts:
    return chat(capability=Capability.TRANSCRIBE, task=Task.TRANSCRIBE, languages=frozenset(languages), **changes)


@pytest.mark.parametrize(
    ("languages", "left"),
    [
        (("de",), {"babel", "unlisted"}),
        (("en",), {"english", "babel", "unlisted"}),
        (("en", "de"), {"babel", "unlisted"}),
        (("sw",), {"unlisted"}),
        ((), {"english", "babel", "unlisted"}),
    ],
)
def test_a_model_that_does_not_know_a_language_is_excluded_where_it_is_named(
    languages: tuple[str, ...], left: set[str]
) -> None:
    made = choose(hear(*languages), world([ENGLISH, BABEL, UNKNOWN]))
    assert {candidate.model.id for candidate in made.candidates} == left
    assert set(codes(made).values()) <= {"language"}


def test_the_reason_names_the_language() -> None:
    made = choose(hear("de"), world([ENGLISH]))
    assert not made.candidates
    assert made.excluded[0].reason == "it does not know the language de"


def test_speech_in_an_unknown_language_goes_to_a_model_of_many() -> None:
    made = choose(hear(), world([ENGLISH, BABEL]))
    assert [candidate.model.id for candidate in made.candidates] == ["babel", "english"]


def test_speech_that_is_said_to_be_english_goes_to_the_better_model() -> None:
    made = choose(hear("en", mode=Mode.BEST), world([ENGLISH, BABEL]))
    assert made.candidates[0].model.id == "english"


def test_sound_stays_here_though_only_one_language_is_known() -> None:
    cloud = remote("cloud", capabilities=HEARS, benchmarks={"transcribe": 0.99})
    made = choose(hear(), world([ENGLISH, cloud]))
    assert [candidate.model.id for candidate in made.candidates] == ["english", "cloud"]


def test_a_model_that_the_settings_prefer_hears_all() -> None:
    preferring = SETTINGS.model_copy(update={"speech": SpeechPolicy(preferred=("english",))})
    made = choose(hear(), world([ENGLISH, BABEL]), settings=preferring)
    assert made.candidates[0].model.id == "english"


def test_languages_of_chats_are_not_asked_about() -> None:
    made = choose(chat(languages=frozenset({"de"})), world([local("writer", languages=("en",))]))
    assert [candidate.model.id for candidate in made.candidates] == ["writer"]


def test_the_cached_rows_of_one_language_are_not_those_of_another() -> None:
    place = world([ENGLISH, BABEL, UNKNOWN])
    for languages, count in ((("en",), 3), (("sw",), 1), (("de",), 2), (("xx",), 1), ((), 3)):
        assert len(choose(hear(*languages), place).candidates) == count
