"""The contract of an engine, tested with its real starter model. A new engine is one more row.

The suite uses only the workers' wire over the worker's socket.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from catalog.model import Capability
from catalog.types import Json
from tests.conformance.capability_checks import CHECKS, PASSAGE, SENTENCE, spoken
from tests.conformance.optional import models
from tests.conformance.worker import DidNotStart, Worker, starter, worker, worker_of

pytestmark = pytest.mark.engine


@dataclass(frozen=True)
class Row:
    """A model and a ``long`` request, which its client leaves early, in mid-stream if it ``streams``.

    ``short`` are fields of the body that reduce the work to at most an eighth. ``exact_tokens`` says whether
    detokenizing restores the text; None: the engine does not tokenize.
    """

    model: str
    long: tuple[str, Json]
    short: Json
    streams: bool = True
    exact_tokens: bool | None = None


_COUNT = (
    "/v1/chat/completions",
    {
        "messages": [{"role": "user", "content": "Count from one to five hundred, in words."}],
        "max_tokens": 1500,
        "stream": True,
        "ignore_eos": True,
    },
)
_LITTLE = {"max_tokens": 30}
ROWS = [
    Row("smollm2-135m-instruct", _COUNT, _LITTLE, exact_tokens=True),
    Row(
        "all-minilm-l6-v2",
        ("/v1/embeddings", {"input": [SENTENCE * 10] * 2000}),
        {"input": [SENTENCE * 10] * 64},
        streams=False,
        exact_tokens=False,
    ),
    # CTranslate2 cannot be interrupted while it decodes a window of 30 seconds, which is one repeat.
    Row("whisper-tiny.en", ("/v1/audio/transcriptions", {"repeats": 8}), {"repeats": 1}, exact_tokens=True),
    # The turns are told at the end, as they hang together.
    Row("resemblyzer", ("/v1/audio/transcriptions", {"repeats": 40}), {"repeats": 1}, streams=False),
    Row(
        "hibari",
        ("/v1/audio/speech", {"input": f"{SENTENCE}\n" * 1000, "response_format": "pcm"}),
        {"input": f"{SENTENCE}\n" * 10},
    ),
    Row("doodle", ("/v1/images/generations", {"prompt": "a fox", "n": 10, "size": "2048x2048"}), {"n": 1}),
]
OPTIONAL = [
    Row("smollm2-mlx", _COUNT, _LITTLE, exact_tokens=True),
    Row("smollm2-vllm", _COUNT, _LITTLE, exact_tokens=True),
    Row("smollm2.gguf-llama-cpp-python", _COUNT, _LITTLE, exact_tokens=True),
    # A diffusion step always completes; only comments are sent before the first picture.
    Row("painter-diffusion", ("/v1/images/generations", {"prompt": "a fox", "steps": 500}), {"steps": 10}),
    Row("flux-stable-diffusion-cpp", ("/v1/images/generations", {"prompt": "a fox", "steps": 500}), {"steps": 10}),
]
OPTIONAL += [
    Row(
        f"{name}-diffusion-video", ("/v1/videos", {"prompt": "a fox", "seconds": "1", "steps": 500}), {"steps": 10}
    )
    for name in ("wan", "ltx")
]
ROWS += [row for row in OPTIONAL if row.model in models()]


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.model)
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    return found


@pytest.fixture(scope="module")
def running(row: Row) -> Iterator[Worker]:
    with worker_of(row.model) as started:
        yield started


def _capabilities(model: str) -> frozenset[Capability]:
    return starter(model)[0].endpoints


async def _send(client: httpx.AsyncClient, path: str, body: Json, under_way: asyncio.Event) -> float:
    """Send a request and read its answer, seconds taken; ``under_way`` is set at the answer's first byte."""
    if "repeats" in body:
        files = {"file": ("fox.mp3", spoken(PASSAGE, body["repeats"]))}
        asked = client.stream("POST", path, data={"model": "m"}, files=files)
    else:
        asked = client.stream("POST", path, json={"model": "m", **body})
    began = time.monotonic()
    async with asked as answer:
        async for _ in answer.aiter_raw():
            under_way.set()
    return time.monotonic() - began


async def test_each_capability_of_the_row_is_answered(row: Row, running: Worker) -> None:
    capabilities = _capabilities(row.model)
    assert capabilities, "a row without capabilities would pass by doing nothing"
    async with running.client() as client:
        for capability in sorted(capabilities):
            await CHECKS[capability](client)


async def test_requests_at_the_same_time_are_all_answered(row: Row, running: Worker) -> None:
    ask = CHECKS[min(_capabilities(row.model))]
    async with running.client() as client:
        await asyncio.gather(*(ask(client) for _ in range(6)))


async def test_nothing_but_health_answers_without_the_key(row: Row, running: Worker) -> None:
    async with running.client(key="another") as client:
        assert (await client.get("/health")).status_code == 200
        answer = await client.post(row.long[0], json={"model": "m"})
        assert answer.status_code == 401
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b'"text"', b'{"model": NaN}', b"\xff\xfe", b"null"],
    ids=["empty", "cut", "brackets", "text", "nan", "bytes", "null"],
)
async def test_a_body_that_is_none_is_an_error_in_the_wires_shape(row: Row, running: Worker, body: bytes) -> None:
    async with running.client() as client:
        answer = await client.post(row.long[0], content=body, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code <= 500
        assert isinstance(answer.json()["error"]["message"], str)
        assert (await client.get("/health")).status_code == 200


async def test_an_unknown_path_is_404_in_the_wires_shape(running: Worker) -> None:
    async with running.client() as client:
        answer = await client.post("/v1/nothing", json={})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]


async def test_work_stops_when_the_client_leaves(row: Row, running: Worker) -> None:
    """The work ends within the time of three short requests, less than half that of the long one."""
    path, body = row.long
    async with running.client() as client:
        under_way = asyncio.Event()
        short = await _send(client, path, {**body, **row.short}, under_way)
        under_way.clear()
        asking = asyncio.create_task(_send(client, path, body, under_way))
        await running.until_active(1, within=60)
        if row.streams:
            async with asyncio.timeout(90):
                await under_way.wait()
        assert not asking.done(), "the request must outlast the test to prove anything"
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert await running.until_active(0, within=120) < 3 * short


async def test_a_worker_answers_after_a_client_left(row: Row, running: Worker) -> None:
    await test_work_stops_when_the_client_leaves(row, running)
    async with running.client() as client:
        await CHECKS[min(_capabilities(row.model))](client)


async def test_tokens_give_the_text_back_or_say_that_it_is_not_exact(row: Row, running: Worker) -> None:
    text = "Ünïcode, two  spaces,\n\ta tab and 🦊 — exactly."
    async with running.client() as client:
        tokenized = await client.post("/tokenize", json={"content": text})
        if row.exact_tokens is None:
            assert tokenized.status_code == 404
            return
        ids = tokenized.json()["tokens"]
        assert len(ids) > 5
        assert all(isinstance(each, int) for each in ids)
        back = await client.post("/detokenize", json={"tokens": ids})
    if row.exact_tokens:
        assert back.json()["content"] == text
    else:
        assert back.status_code == 200
        assert back.json()["exact"] is False
        assert "exactly" in back.json()["content"]


def test_a_model_that_is_damaged_is_refused_with_a_reason(row: Row, tmp_path: Path) -> None:
    found, path = starter(row.model)
    assert found.engine is not None
    if path is None:
        with pytest.raises(DidNotStart, match="voice"), worker(found.engine, None, row=found, voice="nobody"):
            pass
        return
    broken = tmp_path / path.name
    if path.is_dir():
        for file in (found for found in path.rglob("*") if found.is_file()):
            copy = broken / file.relative_to(path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes()[:2000])
    else:
        broken.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DidNotStart) as raised, worker(found.engine, broken, row=found):
        pass
    assert re.search(r"\w{3,} \w{2,}", str(raised.value)), "the reason is a sentence"


def test_a_worker_ends_when_it_is_told_to(row: Row) -> None:
    with worker_of(row.model, slots=1) as started:
        started.process.terminate()
        assert started.process.wait(5) in {0, -15}
