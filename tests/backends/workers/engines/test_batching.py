"""The batcher, with a runner that records its batches and runs them on command."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from backends.workers.engines.common.batching import Batcher, Interrupt, Tokens

pytestmark = pytest.mark.filterwarnings("error")


class FakeRunner:
    """Returns each text's first token. Batches wait while ``go`` is cleared, unless they are interrupted."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.interrupted = 0
        self.go = threading.Event()
        self.go.set()
        self.begun = asyncio.Event()

    def begin(self, batch: Sequence[Tokens]) -> tuple[Callable[[], Sequence[int]], Interrupt]:
        self.batches.append([len(text) for text in batch])
        self.begun.set()
        stopped = threading.Event()

        def interrupt() -> None:
            self.interrupted += 1
            stopped.set()
            self.go.set()

        def call() -> Sequence[int]:
            self.go.wait(10)
            if stopped.is_set():
                raise RuntimeError("interrupted")
            if any(text.ids[0] < 0 for text in batch):
                raise ValueError("a text that the runner cannot run")
            return [text.ids[0] for text in batch]

        return call, interrupt


def text(length: int, first: int = 0) -> Tokens:
    return Tokens([first] * length)


@pytest.fixture
async def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
async def batcher(runner: FakeRunner) -> AsyncIterator[Batcher[int]]:
    made: Batcher[int] = Batcher(runner, budget=100)
    yield made
    made.close()


async def test_results_come_in_the_order_of_the_texts(batcher: Batcher[int]) -> None:
    lengths = [3, 50, 7, 99, 1, 50]
    assert await batcher.run([text(n, i) for i, n in enumerate(lengths)]) == list(range(6))


async def test_a_batch_never_holds_more_padded_tokens_than_its_budget(
    batcher: Batcher[int], runner: FakeRunner
) -> None:
    await batcher.run([text(1 + i * 7 % 90) for i in range(200)])
    assert sum(len(batch) for batch in runner.batches) == 200
    assert all(len(batch) * max(batch) <= 100 for batch in runner.batches)


async def test_a_batch_holds_texts_of_like_length(batcher: Batcher[int], runner: FakeRunner) -> None:
    await batcher.run([text(n) for n in [5, 40, 6, 40, 5, 40, 6, 40]])
    assert runner.batches == [[40, 40], [40, 40], [6, 6, 5, 5]]


async def test_a_text_longer_than_the_budget_runs_alone(batcher: Batcher[int], runner: FakeRunner) -> None:
    assert await batcher.run([text(500, 1), text(2, 2)]) == [1, 2]
    assert runner.batches == [[500], [2]]


async def test_requests_at_the_same_time_share_a_batch(batcher: Batcher[int], runner: FakeRunner) -> None:
    runner.go.clear()
    first = asyncio.create_task(batcher.run([text(10, 1)]))
    await runner.begun.wait()
    others = [asyncio.create_task(batcher.run([text(9 + i, i)])) for i in range(3)]
    await asyncio.sleep(0)
    runner.go.set()
    assert await asyncio.gather(first, *others) == [[1], [0], [1], [2]]
    assert [len(batch) for batch in runner.batches] == [1, 3]


async def test_a_small_request_does_not_wait_for_all_of_a_big_one(
    batcher: Batcher[int], runner: FakeRunner
) -> None:
    runner.go.clear()
    texts = [text(90) for _ in range(50)]
    big = asyncio.create_task(batcher.run(texts))
    await runner.begun.wait()
    small = asyncio.create_task(batcher.run([text(3, 7)]))
    await asyncio.sleep(0)
    runner.go.set()
    assert await small == [7]
    assert len(runner.batches) < 10
    assert not big.done()
    await big


async def test_the_texts_of_a_caller_that_left_are_dropped_and_its_batch_is_interrupted(
    batcher: Batcher[int], runner: FakeRunner
) -> None:
    runner.go.clear()
    texts = [text(90) for _ in range(50)]
    gone = asyncio.create_task(batcher.run(texts))
    await runner.begun.wait()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert runner.interrupted == 1
    assert await batcher.run([text(1, 5)]) == [5]
    assert runner.batches == [[90], [1]]
    assert (batcher.stats.cancelled, batcher.stats.done, batcher.stats.active) == (1, 1, 0)


async def test_a_batch_that_others_wait_for_is_not_interrupted(batcher: Batcher[int], runner: FakeRunner) -> None:
    runner.go.clear()
    first = asyncio.create_task(batcher.run([text(10)]))
    await runner.begun.wait()
    gone, stays = (asyncio.create_task(batcher.run([text(10, i)])) for i in (3, 4))
    await asyncio.sleep(0)
    runner.begun.clear()
    runner.go.set()
    await runner.begun.wait()
    gone.cancel()
    assert await stays == [4]
    assert runner.interrupted == 0
    await first


async def test_a_failure_belongs_to_the_requests_in_its_batch(batcher: Batcher[int]) -> None:
    with pytest.raises(ValueError, match="cannot run"):
        await batcher.run([text(90, -1), text(2)])
    assert await batcher.run([text(2, 9)]) == [9]
    assert batcher.stats.failed == 1


async def test_a_failure_is_not_shared_with_another_request_of_the_batch(
    batcher: Batcher[int], runner: FakeRunner
) -> None:
    good = asyncio.create_task(batcher.run([text(3, 7)]))
    bad = asyncio.create_task(batcher.run([text(3, -1)]))
    other = asyncio.create_task(batcher.run([text(3, 8)]))
    assert await good == [7]
    assert await other == [8]
    with pytest.raises(ValueError, match="cannot run"):
        await bad
    assert runner.batches[0] == [3, 3, 3], "they shared a batch"


@pytest.fixture
async def two_lanes(runner: FakeRunner) -> AsyncIterator[Batcher[int]]:
    made: Batcher[int] = Batcher(runner, budget=100, lanes=2)
    yield made
    made.close()


async def test_two_lanes_run_two_batches_at_once_and_results_keep_their_order(
    two_lanes: Batcher[int], runner: FakeRunner
) -> None:
    runner.go.clear()
    asked = asyncio.create_task(two_lanes.run([text(90, i) for i in range(5)]))
    await runner.begun.wait()
    await asyncio.sleep(0)
    assert len(runner.batches) == 2
    runner.go.set()
    assert await asked == [0, 1, 2, 3, 4]
    assert len(runner.batches) == 5


async def test_a_caller_that_leaves_interrupts_its_batches_in_all_lanes_and_no_others(
    two_lanes: Batcher[int], runner: FakeRunner
) -> None:
    runner.go.clear()
    texts = [text(90) for _ in range(9)]
    gone = asyncio.create_task(two_lanes.run(texts))
    while len(runner.batches) < 2:  # both lanes have begun
        await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert runner.interrupted == 2
    assert await asyncio.gather(*(two_lanes.run([text(90, i)]) for i in range(4))) == [[0], [1], [2], [3]]
    async with asyncio.timeout(10):
        while two_lanes.stats.active:  # an interrupted call ends in its thread
            await asyncio.sleep(0.001)


async def test_a_request_that_comes_as_a_lane_ends_is_served(two_lanes: Batcher[int]) -> None:
    for i in range(200):
        assert await two_lanes.run([text(3, i)]) == [i]


async def test_a_failure_in_one_lane_ends_the_request_in_the_other(
    two_lanes: Batcher[int], runner: FakeRunner
) -> None:
    with pytest.raises(ValueError, match="cannot run"):
        await two_lanes.run([text(90, -1), *(text(90) for _ in range(20))])
    assert len(runner.batches) < 5
    assert await two_lanes.run([text(2, 9)]) == [9]
