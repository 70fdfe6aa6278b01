"""Classification by the likelihoods of the labels, against a model whose probabilities are known."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from backends.base import Upstream
from backends.local.backend import LocalWorkerBackend
from backends.local.classify import NOTHING
from backends.local.merge import gathered
from backends.wire.classify import ClassifyRequest
from catalog.errors import CapabilityMismatch, ContextLengthExceeded, InvalidRequest
from tests.fakes.llama_server import FakeLlamaServer


def classify(*labels: str, text: Any = "THE TEXT", **fields: Any) -> ClassifyRequest:
    return ClassifyRequest.model_validate({"model": "m", "input": text, "labels": list(labels), **fields})


def about_the_text(prompt: str) -> bool:
    """Whether the prompt holds the caller's text, not one without content."""
    return "THE TEXT" in prompt


def said(prompt: str) -> str:
    """The part of the prompt that the model has answered so far."""
    return prompt.rpartition("|assistant: ")[2]


async def test_a_labels_chance_is_the_product_along_its_letters_beside_that_for_nothing(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    told = {"": {"x": 0.1, "y": 0.3, "n": 0.6}, "ye": {"s": 0.2, "t": 0.6, "l": 0.2}}
    plain = {"": {"y": 0.5, "n": 0.5}, "ye": {"s": 0.5, "t": 0.5}}
    fake.chances = lambda prompt: (told if about_the_text(prompt) else plain)[said(prompt)]
    answer = await backend.classify(upstream, classify("yes", "yet", "no"))
    # 1/3 * 1/4, 1/3 * 3/4 and 2/3, over 1/4, 1/4 and 1/2.
    assert answer["data"] == [{"index": 0, "scores": pytest.approx([0.125, 0.375, 0.5])}]
    assert answer["scoring"] == "likelihood"
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > len("THE TEXT")


async def test_a_label_that_begins_another_is_the_answer_that_ends_there(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.chances = lambda prompt: {" ": 0.2, ".": 0.8} if about_the_text(prompt) else {" ": 0.5, ".": 0.5}
    answer = await backend.classify(upstream, classify("good", "good enough"))
    assert answer["data"][0]["scores"] == pytest.approx([0.8, 0.2])


async def test_a_letter_that_never_comes_leaves_a_chance_of_nearly_nothing(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.chances = lambda prompt: {"y": 1.0} if about_the_text(prompt) else {"y": 0.5, "n": 0.5}
    [row] = (await backend.classify(upstream, classify("yes", "no")))["data"]
    assert row["scores"] == pytest.approx([1.0, 0.0], abs=1e-9)


async def test_texts_are_answered_in_order_and_nothing_is_asked_of_once(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    def chances(prompt: str) -> dict[str, float]:
        for number in range(6):
            if f"text {number}" in prompt:
                return {"a": 0.1 + number / 10, "b": 0.9 - number / 10}
        return {"a": 0.5, "b": 0.5}

    fake.chances = chances
    texts = [f"text {number}" for number in range(6)]
    answer = await backend.classify(upstream, classify("a", "b", text=texts))
    assert [row["index"] for row in answer["data"]] == list(range(6))
    assert [row["scores"][0] for row in answer["data"]] == pytest.approx([0.1 + n / 10 for n in range(6)])
    before = len(fake.calls)
    await backend.classify(upstream, classify("a", "b", text=[{"text": "text 3"}]))
    asked = [call.path for call in fake.calls[before:]]
    assert asked.count("/completion") == 1
    assert sum(call.path == "/completion" for call in fake.calls) == len(NOTHING) + len(texts) + 1


async def test_a_text_that_does_not_fit_is_refused_with_the_numbers(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.chances = lambda prompt: {"a": 0.5, "b": 0.5}
    with pytest.raises(ContextLengthExceeded, match="640"):
        await backend.classify(upstream, classify("a", "b", text=["short", "long " * 200]))


async def test_what_likelihoods_have_no_use_for_is_told_or_refused(
    backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    request = classify("a", "b", truncate=True, user="u", routing={"mode": "fast"})
    assert backend.dropped(request, upstream) == ("truncate", "user")
    with pytest.raises(InvalidRequest, match="chat_template"):
        await backend.classify(upstream, classify("a", "b", chat_template="x"))


async def test_an_embedding_model_classifies_by_itself_and_other_engines_do_not(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    request = classify("red fox", "blue", text="a red fox")
    answer = await backend.classify(replace(upstream, engine="onnx"), request)
    assert answer["data"][0]["scores"] == pytest.approx([0.75, 0.25])
    assert [call.path for call in fake.calls] == ["/v1/classify"]
    with pytest.raises(CapabilityMismatch, match="mlx"):
        await backend.classify(replace(upstream, engine="mlx"), request)


async def test_works_side_by_side_end_with_the_first_error() -> None:
    ended: list[str] = []

    async def fails() -> str:
        raise InvalidRequest("no")

    async def waits() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waits")
        return ""

    async def is_never_begun() -> str:
        ended.append("never")
        return ""

    with pytest.raises(InvalidRequest, match="no"):
        await gathered([waits(), fails(), is_never_begun()], at_once=2)
    assert ended == ["waits"]
