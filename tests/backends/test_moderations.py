"""Moderation: a provider's verdicts, a classifier's labels as categories, and a chat model's yes or no."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from openai.types import ModerationCreateResponse

from backends.base import Upstream
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend
from backends.notices import collect
from backends.openai.backend import OpenAIBackend
from backends.openai.moderation import moderation_list
from backends.wire.classify import ClassifyRequest
from backends.wire.moderation.request import ModerationRequest
from catalog.errors import CapabilityMismatch, UpstreamProtocolError
from catalog.model import Capability
from catalog.moderation.categories import CATEGORIES, Moderation
from catalog.types import Json
from tests.fakes.llama_server import FakeLlamaServer
from tests.fakes.openai import FakeOpenAI

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
NAMED = Upstream("e", "openai", "http://e/v1", "m")


def asked(given: Any) -> ModerationRequest:
    return ModerationRequest.model_validate({"model": "m", "input": given})


def checked(answer: Json) -> list[Any]:
    """The results, as OpenAI's SDK reads them, with every category in each map."""
    for result in answer["results"]:
        for name in ("categories", "category_scores", "category_applied_input_types"):
            assert result[name].keys() >= set(CATEGORIES)
    return ModerationCreateResponse.model_validate({"model": "m", **answer}).results


# ---- a provider


@pytest.mark.parametrize(
    ("given", "flagged"),
    [
        ("I will kill you", [True]),
        (["hello", "I will kill you"], [False, True]),
        ([{"type": "text", "text": "hello"}, PICTURE], [False]),
    ],
    ids=["a text", "texts", "parts"],
)
async def test_a_provider_judges_texts_and_pictures(given: Any, flagged: list[bool]) -> None:
    async with FakeOpenAI() as fake, HttpClient() as http:
        upstream = Upstream("e", "openai", fake.base_url, "fake-moderation")
        answer = await OpenAIBackend(http).moderate(upstream, asked(given))
        assert fake.calls[-1].body["input"] == given
    assert [result.flagged for result in checked(answer)] == flagged
    assert answer["id"] == "modr-fake"


def test_mistrals_categories_become_openais_and_its_own_stay_beside_them() -> None:
    row = {
        "categories": {"sexual": False, "hate_and_discrimination": True, "selfharm": False, "pii": True},
        "category_scores": {"sexual": 0.1, "hate_and_discrimination": 0.9, "selfharm": 0.2, "pii": 0.8},
    }
    answer = moderation_list({"id": "x", "results": [row]}, asked("a"), NAMED)
    [result] = checked(answer)
    [told] = answer["results"]
    assert (result.flagged, result.categories.hate, result.category_scores.hate) == (True, True, 0.9)
    assert told["categories"]["pii"] is True
    assert told["category_applied_input_types"]["self-harm"] == ["text"]
    assert told["category_applied_input_types"]["violence"] == [], "a category that was not judged"


def test_a_category_beyond_openais_flags_nothing() -> None:
    row = {"categories": {"pii": True}, "category_scores": {"pii": 0.8}}
    [result] = moderation_list({"results": [row]}, asked("a"), NAMED)["results"]
    assert result["flagged"] is False


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"results": []},
        {"results": [7]},
        {"results": [{"categories": {}}]},
        {"results": [{"categories": {"hate": "yes"}, "category_scores": {}}]},
        {"results": [{"categories": {}, "category_scores": {"hate": "0.1"}}]},
    ],
    ids=str,
)
def test_an_answer_of_another_shape_is_a_protocol_error(document: Json) -> None:
    with pytest.raises(UpstreamProtocolError):
        moderation_list(document, asked("a"), NAMED)


# ---- a classifier


async def test_a_classifiers_labels_count_for_their_categories() -> None:
    moderation = Moderation.model_validate(
        {"labels": {"kill threats": ["violence", "harassment/threatening"], "peace": []}, "threshold": 0.6}
    )
    async with FakeOpenAI() as fake, HttpClient() as http:
        upstream = Upstream("e", "openai", fake.base_url, "fake-classify", moderation=moderation)
        answer = await OpenAIBackend(http).moderate(upstream, asked(["threats to kill", "", "peace"]))
        assert fake.calls[-1].body["input"] == ["threats to kill", "peace"]
        assert fake.calls[-1].body["labels"] == ["kill threats", "peace"]
    hostile, empty, peaceful = checked(answer)
    assert (hostile.flagged, hostile.category_scores.violence) == (True, 0.75)
    assert hostile.categories.harassment_threatening is True
    assert (empty.flagged, empty.category_scores.violence) == (False, 0.0)
    assert (peaceful.flagged, peaceful.category_scores.violence) == (False, pytest.approx(1 / 3))
    assert answer["results"][0]["category_applied_input_types"]["hate"] == []


async def test_a_classification_by_similarity_says_that_it_is_blind_to_negation(
    backend: LocalWorkerBackend, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring = "similarity"

    async def classify(*_: Any) -> Json:
        return {"scoring": scoring, "data": [], "labels": ["a", "b"]}

    monkeypatch.setattr(backend._openai, "classify", classify)
    request = ClassifyRequest.model_validate(
        {"model": "m", "input": ["not positive at all"], "labels": ["a", "b"]}
    )
    notes = collect()
    await backend.classify(replace(upstream, engine="onnx"), request)
    assert "blind to negation" in notes.notices[0]
    scoring, notes = "classifier", collect()
    await backend.classify(replace(upstream, engine="onnx"), request)
    assert notes.notices == []


# ---- a chat model


async def test_a_chat_models_yes_to_a_category_is_its_score(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    def chances(prompt: str) -> dict[str, float]:
        about = "THE TEXT" in prompt and "the text depicts death, violence or physical injury?" in prompt
        return {"y": 0.9, "n": 0.1} if about else {"y": 0.01, "n": 0.99}

    fake.chances = chances
    notes = collect()
    answer = await backend.moderate(upstream, asked(["THE TEXT", "other", " "]))
    assert "guesses" in notes.notices[0], "the caller is told that this is no moderator"
    violent, other, empty = checked(answer)
    assert (violent.flagged, violent.category_scores.violence) == (True, pytest.approx(0.9))
    assert violent.category_scores.hate == pytest.approx(0.01)
    assert (other.flagged, empty.flagged, empty.category_scores.violence) == (False, False, 0.0)
    assert answer["scoring"] == "likelihood"
    assert answer["usage"]["prompt_tokens"] > 0


async def test_a_model_that_says_yes_to_everything_flags_nothing(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.chances = lambda prompt: {"y": 0.9, "n": 0.1}
    [result] = checked(await backend.moderate(upstream, asked("THE TEXT")))
    assert (result.flagged, result.category_scores.hate) == (False, pytest.approx(0.5))


async def test_a_picture_is_refused_where_texts_alone_are_judged(
    backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    with pytest.raises(CapabilityMismatch, match="omni-moderation") as refused:
        await backend.moderate(upstream, asked([PICTURE]))
    assert refused.value.lacks == frozenset({Capability.VISION.value})


async def test_an_embedding_model_without_labels_does_not_moderate(
    backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    with pytest.raises(CapabilityMismatch, match=r"\[model\.moderation\]"):
        await backend.moderate(replace(upstream, engine="onnx"), asked("a"))
