"""Lines of embeddings are asked together where it pays, and answered as if each had been asked alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from backends.base import Upstream
from backends.wire.embeddings import EmbeddingRequest
from catalog.errors import InvalidRequest
from catalog.types import Json
from server.batches.answering import AT_A_TURN, Answering
from server.batches.lines import Line
from server.batches.merging import COUNTED, FEW, FIRST, LASTS, MOST, EmbeddingMerger
from server.batches.pacing import Pacer
from tests.server.batches.helpers import content, jsonl, send, until
from tests.server.conftest import Gateway

PATH = "/v1/embeddings"


def line(name: str, text: Any, **more: Any) -> Json:
    body = {"model": "parrot", "input": text, **more}
    return {"custom_id": name, "method": "POST", "url": PATH, "body": body}


class Embedder:
    """Embeds a text as its length, and counts its words if asked to."""

    def __init__(self, *, counts: bool = True) -> None:
        self.counts = counts
        self.asked: list[list[str]] = []

    async def __call__(self, upstream: Upstream, request: EmbeddingRequest) -> AsyncIterator[Json]:
        del upstream
        texts: list[str] = request.items()  # type: ignore[assignment]
        self.asked.append(texts)
        if "bad" in texts:
            raise InvalidRequest("A text is bad.", param="input")
        counted = self.counts and (request.model_extra or {}).get(COUNTED)
        words = [len(text.split()) for text in texts]
        yield {
            "object": "list",
            "model": "parrot",
            "data": [
                {"object": "embedding", "index": n, "embedding": [float(len(text))]}
                | ({"tokens": words[n]} if counted else {})
                for n, text in enumerate(texts)
            ],
            "usage": {"prompt_tokens": sum(words), "total_tokens": sum(words)},
        }


def embeds(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Embedder:
    embedder = Embedder(**options)

    async def embed(upstream: Upstream, request: EmbeddingRequest) -> Json:
        return await anext(embedder(upstream, request))

    monkeypatch.setattr(gateway.backend, "embed", embed)
    return embedder


TEXTS = ["word " * (n % 7 + 1) for n in range(50)]


async def answers(gateway: Gateway, *lines: Json) -> dict[str, Json]:
    done = await until(gateway, await send(gateway, jsonl(*lines), PATH), "completed", "failed")
    assert done["status"] == "completed", done["errors"]
    found = [*await content(gateway, done["output_file_id"]), *await content(gateway, done["error_file_id"])]
    assert len(found) == len(lines)
    return {each["custom_id"]: each["response"]["body"] for each in found}


@pytest.mark.parametrize("counts", [True, False], ids=["merged", "alone"])
async def test_each_line_has_its_own_vector_and_tokens(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, counts: bool
) -> None:
    embedder = embeds(gateway, monkeypatch, counts=counts)
    found = await answers(gateway, *(line(f"r{n}", text) for n, text in enumerate(TEXTS)))
    for n, text in enumerate(TEXTS):
        tokens = len(text.split())
        assert found[f"r{n}"] == {
            "object": "list",
            "model": "parrot",
            "data": [{"object": "embedding", "index": 0, "embedding": [float(len(text))]}],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    merged = [texts for texts in embedder.asked if len(texts) > 1]
    if counts:
        assert max(map(len, embedder.asked)) == FIRST
        assert sum(map(len, embedder.asked)) == len(TEXTS)
        assert len(embedder.asked) == 2
    else:
        assert len(embedder.asked) - len(merged) == len(TEXTS), "a model that does not count is asked line by line"


async def test_a_group_is_read_to_its_end_though_another_shows_that_merging_does_not_work(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = embeds(gateway, monkeypatch)
    together = Answering._together

    async def shown_meanwhile(self: Answering, lines: Sequence[Line]) -> list[list[Line]]:
        asyncio.get_running_loop().call_soon(setattr, self, "_merger", None)  # in the first pause of the reading
        return await together(self, lines)

    monkeypatch.setattr(Answering, "_together", shown_meanwhile)
    found = await answers(gateway, *(line(f"r{n}", "good") for n in range(20)))
    assert len(found) == 20
    assert embedder.asked == [["good"]] * 20, "each line is asked alone from then on"


async def test_a_wrong_text_fails_alone(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    embeds(gateway, monkeypatch)
    found = await answers(gateway, *(line(f"r{n}", "bad" if n == 3 else "good") for n in range(20)))
    assert found["r3"]["error"]["message"] == "A text is bad."
    assert all(found[f"r{n}"]["data"][0]["embedding"] == [4.0] for n in range(20) if n != 3)


async def test_lines_that_differ_in_more_than_the_text_are_asked_apart(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = embeds(gateway, monkeypatch)
    lines = [line("list", ["a", "b"]), line("long", "x" * 5000), line("one", "a"), line("two", "b")]
    found = await answers(gateway, *lines, line("other", "c", encoding_format="float"))
    assert sorted(map(len, embedder.asked)) == [1, 1, 2, 2]
    assert len(found["list"]["data"]) == 2


def test_what_was_cut_off_is_told_of_its_own_line() -> None:
    rows = [{"object": "embedding", "index": n, "embedding": [1.0], "tokens": 2} for n in range(2)]
    split = EmbeddingMerger().split({"data": rows, "truncated": [1]}, 2)
    assert split is not None
    assert "truncated" not in split[0]
    assert split[1]["truncated"] == [0]


async def test_fewer_lines_are_asked_together_while_interactive_requests_come(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = embeds(gateway, monkeypatch)
    monkeypatch.setattr(Pacer, "talks", True)
    await answers(gateway, *(line(f"r{n}", text) for n, text in enumerate(TEXTS)))
    assert max(map(len, embedder.asked)) == FEW


@pytest.mark.parametrize(
    ("seconds", "size"), [(LASTS / 1000, MOST), (LASTS / 50, 50), (LASTS, FEW)], ids=["fast", "usual", "slow"]
)
def test_a_request_has_as_many_lines_as_the_engine_answers_in_a_second(seconds: float, size: int) -> None:
    merger = EmbeddingMerger()
    assert merger.size == FIRST
    for _ in range(40):
        merger.took(seconds * merger.size, merger.size)
    assert merger.size == size


async def test_the_answers_of_a_merged_request_do_not_hold_up_the_event_loop(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeds(gateway, monkeypatch)
    turns, seen = 0, Counter[int]()
    answered = Answering._answered

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def noted(self: Answering, *result: Any) -> None:
        seen[turns] += 1
        await answered(self, *result)

    monkeypatch.setattr(Answering, "_answered", noted)
    counting = asyncio.create_task(count())
    try:
        await answers(gateway, *(line(f"r{n}", text) for n, text in enumerate(TEXTS)))
    finally:
        counting.cancel()
    assert seen.total() == len(TEXTS)
    assert max(seen.values()) <= 2 * AT_A_TURN, "two requests may be answered in one turn"
