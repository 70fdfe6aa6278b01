"""Classification by likelihoods with the real starter model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import pairwise

import pytest

from backends.base import Upstream
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend
from backends.wire.classify import ClassifyRequest
from catalog.errors import ContextLengthExceeded
from tests.conformance.worker import KEY, Worker, worker_of

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def running() -> Iterator[Worker]:
    with worker_of("smollm2-135m-instruct") as started:
        yield started


@pytest.fixture
async def backend() -> AsyncIterator[LocalWorkerBackend]:
    async with HttpClient() as http:
        yield LocalWorkerBackend(http)


async def scores(
    running: Worker, backend: LocalWorkerBackend, texts: list[str], *labels: str
) -> list[list[float]]:
    upstream = Upstream(
        "w", "worker", "http://worker/v1", "m", uds=running.spec.socket, api_key=KEY, engine="llamacpp"
    )
    request = ClassifyRequest.model_validate({"model": "m", "input": texts, "labels": list(labels)})
    return [row["scores"] for row in (await backend.classify(upstream, request))["data"]]


async def test_the_text_moves_the_chances(running: Worker, backend: LocalWorkerBackend) -> None:
    texts = [
        "The striker scored twice in the final minutes to win the cup.",
        "Simmer the onions in butter until golden, then add the stock.",
    ]
    match, recipe = await scores(running, backend, texts, "sports", "cooking")
    assert match[0] > recipe[0] + 0.2
    assert sum(match) == pytest.approx(1.0)
    assert sum(recipe) == pytest.approx(1.0)


async def test_the_same_text_has_the_same_chances_beside_others(
    running: Worker, backend: LocalWorkerBackend
) -> None:
    labels = ("refund request", "refund", "technical problem", "delivery question", "delivery")
    alone = await scores(running, backend, ["When will my parcel arrive?"], *labels)
    beside = await scores(running, backend, ["When will my parcel arrive?"] * 5 + ["Money back!"], *labels)
    for one, other in pairwise([*alone, *beside[:5]]):
        assert one == pytest.approx(other, abs=0.02)
    assert all(chance > 0 for chance in alone[0])


async def test_a_text_past_the_window_is_refused(running: Worker, backend: LocalWorkerBackend) -> None:
    with pytest.raises(ContextLengthExceeded):
        await scores(running, backend, ["long " * 4000], "a", "b")
