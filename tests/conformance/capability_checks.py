"""One check per capability: a real request to a worker, and assertions about its answer."""

from __future__ import annotations

import base64
import functools
import io
import json
from collections.abc import Awaitable, Callable
from typing import Any

import av
import httpx
import numpy as np

from catalog.model import Capability
from catalog.types import Json

Check = Callable[[httpx.AsyncClient], Awaitable[None]]

SENTENCE = "The quick brown fox jumps over the lazy dog."
PASSAGE = """The harbour was quiet when the first boats came home. Gulls circled above the old stone pier.
A baker carried warm bread across the market square. Children counted the steps to the lighthouse door.
Rain had washed the roofs clean during the night. Nobody noticed the letter that lay under the bench.
The captain asked for coffee and a map of the coast. His sister repaired clocks in a narrow street nearby.
Every evening a train left for the mountains in the north. Winter would arrive before the roads were finished."""


def events(body: str) -> list[Json]:
    """Parse the server-sent events of a body, without ``[DONE]``."""
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@functools.cache
def spoken(text: str = SENTENCE, repeats: int = 1) -> bytes:
    """Make an mp3 in which hibari speaks ``text`` ``repeats`` times."""
    from backends.workers.engines.common.audio import encode
    from backends.workers.engines.speech.hibari import HibariVoices

    voices = HibariVoices(threads=2)
    pieces = voices.read(text, language="en-US")
    once = [voices.speak(piece, voices.voices[0], speed=1.0).samples for piece in pieces]
    return b"".join(encode(once * repeats, audio_format="mp3", source_rate=24_000, rate=24_000))


async def check_chat(client: httpx.AsyncClient) -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
        "temperature": 0,
        "max_tokens": 32,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    chunks = events(answer.text)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert "Paris" in text
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert chunks[-1]["usage"]["completion_tokens"] > 0


async def check_completion(client: httpx.AsyncClient) -> None:
    body = {"model": "m", "prompt": "one, two, three, four,", "temperature": 0, "max_tokens": 8, "stream": True}
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert "five" in "".join(choice["text"] for chunk in events(answer.text) for choice in chunk["choices"])


async def check_embed(client: httpx.AsyncClient) -> None:
    texts = ["A cat sleeps on the sofa.", "The share price fell sharply.", "A kitten naps on a couch."]
    answer = await client.post("/v1/embeddings", json={"model": "m", "input": texts})
    assert answer.status_code == 200, answer.text
    cat, share, kitten = (row["embedding"] for row in answer.json()["data"])

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert dot(cat, kitten) > dot(cat, share) + 0.3
    assert abs(dot(cat, cat) - 1) < 1e-3
    assert answer.json()["usage"]["prompt_tokens"] > 10


async def check_rerank(client: httpx.AsyncClient) -> None:
    documents = ["Bread is baked in an oven.", "Paris is the capital of France.", "Cats like fish."]
    body = {"model": "m", "query": "What is the capital of France?", "documents": documents}
    answer = await client.post("/v1/rerank", json=body)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    best = max(results, key=lambda result: result["relevance_score"])
    assert best["index"] == 1
    assert sorted(result["index"] for result in results) == [0, 1, 2]


async def check_classify(client: httpx.AsyncClient) -> None:
    texts = ["The striker scored twice and won the cup.", "Simmer the onions in butter, then add the stock."]
    body = {"model": "m", "input": texts, "labels": ["cooking", "sports"]}
    answer = await client.post("/v1/classify", json=body)
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [(row["index"], row["prediction"]) for row in data] == [(0, "sports"), (1, "cooking")]
    for row in data:
        assert [told["label"] for told in row["predictions"]] == ["cooking", "sports"]
        assert abs(sum(told["score"] for told in row["predictions"]) - 1.0) < 1e-6


async def check_moderate(client: httpx.AsyncClient) -> None:
    """A chat model moderates by the likelihood of "yes" beside "no", for which the gateway asks these paths."""
    question = {"messages": [{"role": "user", "content": "Is the sky green? Answer with yes or no alone."}]}
    filled = await client.post("/apply-template", json=question)
    assert filled.status_code == 200, filled.text
    words = [await client.post("/tokenize", json={"content": word}) for word in ("yes", "no")]
    onward = [word.json()["tokens"][0] for word in words]
    body = {
        "prompt": filled.json()["prompt"],
        "n_predict": 1,
        "n_probs": len(onward),
        "temperature": 1.0,
        "samplers": ["temperature"],
        "logit_bias": [[token, 100.0] for token in onward],
        "post_sampling_probs": True,
    }
    answer = await client.post("/completion", json=body)
    assert answer.status_code == 200, answer.text
    likely = {row["id"]: row["prob"] for row in answer.json()["completion_probabilities"][0]["top_probs"]}
    assert sorted(likely) == sorted(onward)
    assert abs(sum(likely.values()) - 1.0) < 1e-3


async def check_transcribe(client: httpx.AsyncClient) -> None:
    files = {"file": ("fox.mp3", spoken())}
    answer = await client.post("/v1/audio/transcriptions", data={"model": "m"}, files=files)
    assert answer.status_code == 200, answer.text
    *deltas, done = events(answer.text)
    assert all(event["type"] == "transcript.text.delta" for event in deltas)
    assert done["type"] == "transcript.text.done"
    assert done["text"] == "".join(event["delta"] for event in deltas)
    assert "quick brown fox jumps over the lazy dog" in done["text"]
    assert 2.5 < done["duration"] < 3.5


async def check_diarize(client: httpx.AsyncClient) -> None:
    files = {"file": ("passage.mp3", spoken(PASSAGE))}
    answer = await client.post("/v1/audio/transcriptions", data={"model": "m"}, files=files)
    assert answer.status_code == 200, answer.text
    done = events(answer.text)[-1]
    assert done["type"] == "transcript.text.done"
    assert {segment["speaker"] for segment in done["segments"]} == {"A"}
    assert done["segments"][0]["start"] < 1 < done["duration"] - 1 < done["segments"][-1]["end"]


async def check_speak(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/v1/audio/speech", json={"model": "m", "input": SENTENCE, "response_format": "mp3"}
    )
    assert answer.status_code == 200, answer.text
    with av.open(io.BytesIO(answer.content)) as container:
        assert isinstance(container, av.container.InputContainer)
        frames = list(container.decode(audio=0))
    seconds = sum(frame.samples for frame in frames) / frames[0].sample_rate
    assert 2.0 < seconds < 5.0


async def check_image(client: httpx.AsyncClient) -> None:
    body = {"model": "m", "prompt": "a fox", "seed": 7, "n": 2, "size": "64x48", "output_format": "webp"}
    answer = await client.post("/v1/images/generations", json=body)
    assert answer.status_code == 200, answer.text
    drawn = events(answer.text)
    assert [each["type"] for each in drawn] == ["image_generation.completed"] * 2
    assert [each["seed"] for each in drawn] == [7, 8]
    first, second = (base64.b64decode(each["b64_json"]) for each in drawn)
    assert first != second
    with av.open(io.BytesIO(first)) as container:
        assert isinstance(container, av.container.InputContainer)
        assert container.format.name == "webp_pipe"
        frame = next(container.decode(video=0))
    assert (frame.width, frame.height) == (64, 48)


async def check_video(client: httpx.AsyncClient) -> None:
    body = {"model": "m", "prompt": "a fox", "seconds": "2", "size": "62x46", "fps": 4}
    made: list[bytes] = []
    for seed in (7, 7, 8):
        answer = await client.post("/v1/videos", json={**body, "seed": seed})
        assert answer.status_code == 200, answer.text
        told = events(answer.text)
        percents = [each["progress"] for each in told if each["type"] == "video.progress"]
        assert percents[0] == 0
        assert percents == sorted(percents)
        assert len(set(percents)) > 3
        assert (told[-1]["type"], told[-1]["seconds"], told[-1]["seed"]) == ("video.completed", 2.0, seed)
        made.append(b"".join(base64.b64decode(each["data"]) for each in told if each["type"] == "video.content"))
    frames = []
    for data in made:
        opening: Any = av.open(io.BytesIO(data))
        with opening as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, float(stream.average_rate)) == ("h264", 4.0)
            frames.append([frame.to_ndarray(format="gray") for frame in container.decode(stream)])
    assert [len(each) for each in frames] == [8, 8, 8]
    assert frames[0][0].shape == (46, 62)
    first, again, other = (np.stack(each).astype(float) for each in frames)
    # Sums of floats differ in their last bits from run to run, and the encoder makes levels of them.
    assert abs(first - again).mean() < abs(first - other).mean() / 2, "a seed gives the same video"
    assert any((frame != frames[0][0]).any() for frame in frames[0])


CHECKS: dict[Capability, Check] = {
    Capability.CHAT: check_chat,
    Capability.COMPLETION: check_completion,
    Capability.EMBED: check_embed,
    Capability.RERANK: check_rerank,
    Capability.CLASSIFY: check_classify,
    Capability.MODERATE: check_moderate,
    Capability.TRANSCRIBE: check_transcribe,
    Capability.DIARIZE: check_diarize,
    Capability.SPEAK: check_speak,
    Capability.IMAGE: check_image,
    Capability.VIDEO: check_video,
}
