"""Languages other than English: detected with how sure that is, narrowed by the caller, and put into English."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from catalog.types import Json
from tests.conformance.capability_checks import SENTENCE, events, spoken
from tests.conformance.worker import Worker, worker_of

pytestmark = pytest.mark.engine
SPOKEN = Path(__file__).parent / "spoken"
GERMAN, SPANISH = ((SPOKEN / f"{language}.opus").read_bytes() for language in ("de", "es"))


@pytest.fixture(scope="module")
def base() -> Iterator[Worker]:
    with worker_of("whisper-base") as running:
        yield running


async def _ask(worker: Worker, file: bytes, path: str = "transcriptions", **fields: Any) -> httpx.Response:
    async with worker.client() as client:
        return await client.post(
            f"/v1/audio/{path}", data={"model": "m", **fields}, files={"file": ("a.opus", file)}
        )


async def _done(worker: Worker, file: bytes, path: str = "transcriptions", **fields: Any) -> Json:
    answer = await _ask(worker, file, path, **fields)
    assert answer.status_code == 200, answer.text
    return events(answer.text)[-1]


def among(*languages: str) -> Json:
    """The field of the form that names the languages that may be spoken."""
    return {"languages[]": list(languages)}


@pytest.mark.parametrize(
    ("file", "language", "words"), [(GERMAN, "de", ("Berlin", "Zug")), (SPANISH, "es", ("Buenos días",))]
)
async def test_the_language_is_detected_and_how_sure_that_is(
    base: Worker, file: bytes, language: str, words: tuple[str, ...]
) -> None:
    done = await _done(base, file)
    assert done["language"] == language
    assert 0.5 < done["language_probability"] <= 1
    assert all(word in done["text"] for word in words), done["text"]


async def test_english_is_heard_as_well(base: Worker) -> None:
    done = await _done(base, spoken())
    assert (done["text"], done["language"]) == (SENTENCE, "en")


async def test_a_language_that_the_caller_names_is_not_detected(base: Worker) -> None:
    done = await _done(base, GERMAN, language="deu")
    assert done["language"] == "de"
    assert "language_probability" not in done


async def test_of_several_languages_that_may_be_spoken_the_likeliest_is_taken(base: Worker) -> None:
    done = await _done(base, GERMAN, **among("es", "de-AT"))
    assert done["language"] == "de"
    assert done["language_probability"] > 0.9
    other = await _done(base, GERMAN, **among("es", "fr"))
    assert other["language"] in {"es", "fr"}


async def test_speech_is_translated_into_english(base: Worker) -> None:
    done = await _done(base, GERMAN, "translations", language="de")
    assert (done["task"], done["language"], done["source_language"]) == ("translate", "en", "de")
    assert all(words in done["text"] for words in ("Good morning", "Today")), done["text"]


async def test_a_language_that_nobody_speaks_is_refused(base: Worker) -> None:
    answer = await _ask(base, GERMAN, **among("de", "xx"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_value")
    assert answer.json()["error"]["param"] == "languages"


async def test_a_model_of_english_alone_refuses_to_translate_and_to_hear_others(whisper: Worker) -> None:
    translated = await _ask(whisper, GERMAN, "translations")
    assert translated.json()["error"]["code"] == "model_capability_mismatch"
    german = await _ask(whisper, GERMAN, **among("de"))
    assert german.json()["error"]["code"] == "unsupported_value"


async def test_each_event_tells_how_much_was_heard(whisper: Worker) -> None:
    answer = await _ask(whisper, spoken())
    *deltas, done = events(answer.text)
    heard = [event["progress"] for event in deltas]
    assert heard == sorted(heard, key=lambda progress: progress["seconds"])
    assert heard[-1]["of"] == pytest.approx(done["duration"], abs=0.2)
    assert 0 < heard[-1]["seconds"] <= heard[-1]["of"]
